/* SPDX-License-Identifier: Apache-2.0 */
#include "ctl/fleet.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ctl/kube/api.h"
#include "ctl/kube/exec_credential.h"
#include "ctl/safe_text.h"
#include "ctl/source.h"
#include "lib/cleanup.h"
#include "lib/descriptors.h"

#define ADMIN_PORT 15000 /* of the proxy, unless its environment says otherwise */

struct fleet {
    struct fleet_config config;
    struct kube_access *access;
    char *namespace;
    bool as_json;
    cJSON *pods; /* texts of places point into it */
    struct place *places;
    size_t len;
};

static const cJSON *get(const cJSON *object, const char *key)
{
    return cJSON_GetObjectItemCaseSensitive(object, key);
}

/* ---- what a pod says of itself ---- */

static const cJSON *container_of_name(const cJSON *pod, const char *name)
{
    const cJSON *c;

    cJSON_ArrayForEach (c, get(get(pod, "spec"), "containers")) {
        if (!strcmp(text_of(c, "name"), name))
            return c;
    }
    return NULL;
}

static unsigned port_number(double number)
{
    return number >= 1 && number <= 65535 ? (unsigned)number : 0;
}

static unsigned agent_port(const cJSON *container)
{
    return port_number(number_of(get(get(container, "readinessProbe"), "httpGet"), "port"));
}

static unsigned proxy_port(const cJSON *container)
{
    const cJSON *variable;

    cJSON_ArrayForEach (variable, get(container, "env")) {
        if (!strcmp(text_of(variable, "name"), "ADMIN_PORT"))
            return port_number(strtod(text_of(variable, "value"), NULL));
    }
    return ADMIN_PORT;
}

static bool is_ready(const cJSON *pod)
{
    const cJSON *condition;

    cJSON_ArrayForEach (condition, get(get(pod, "status"), "conditions")) {
        if (!strcmp(text_of(condition, "type"), "Ready"))
            return !strcmp(text_of(condition, "status"), "True");
    }
    return false;
}

/* Of two pods on a node, during an update, the one that serves: runs, is not told to end, and is younger. */
static int rank(const cJSON *pod)
{
    bool runs = !strcmp(text_of(get(pod, "status"), "phase"), "Running");
    bool ends = *text_of(get(pod, "metadata"), "deletionTimestamp") != '\0';

    return (runs ? 4 : 0) + (ends ? 0 : 2) + is_ready(pod);
}

static bool is_better(const cJSON *pod, const cJSON *than)
{
    int difference = than ? rank(pod) - rank(than) : 1;

    if (difference)
        return difference > 0;
    return strcmp(text_of(get(pod, "metadata"), "creationTimestamp"),
                  text_of(get(than, "metadata"), "creationTimestamp")) > 0;
}

/* ---- nodes ---- */

struct node_pods {
    const char *node;
    const cJSON *agent, *proxy;
};

static int by_name(const void *a, const void *b)
{
    return strcmp(((const struct node_pods *)a)->node, ((const struct node_pods *)b)->node);
}

static struct node_pods *node_of(struct node_pods *nodes, size_t *len, const char *name)
{
    for (size_t i = 0; i < *len; i++) {
        if (!strcmp(nodes[i].node, name))
            return &nodes[i];
    }
    nodes[*len] = (struct node_pods){.node = name};
    return &nodes[(*len)++];
}

/* nodes: room for as many as there are pods, or, with only, for one. */
static size_t sort_pods(const cJSON *pods, const char *only, struct node_pods *nodes)
{
    const cJSON *pod;
    size_t len = 0;

    cJSON_ArrayForEach (pod, pods) {
        const char *node = text_of(get(pod, "spec"), "nodeName");
        bool agent = container_of_name(pod, "bruma-agent"), proxy = container_of_name(pod, "istio-proxy");
        struct node_pods *n;

        if (!*node || (!agent && !proxy) || (only && strcmp(node, only) != 0))
            continue;
        n = node_of(nodes, &len, node);
        if (agent && is_better(pod, n->agent))
            n->agent = pod;
        if (proxy && is_better(pod, n->proxy))
            n->proxy = pod;
    }
    qsort(nodes, len, sizeof(*nodes), by_name);
    return len;
}

static const char *name_of(const cJSON *pod)
{
    return pod ? text_of(get(pod, "metadata"), "name") : NULL;
}

static const char *label_of(const cJSON *pod)
{
    return text_of(get(get(pod, "metadata"), "labels"), "app.kubernetes.io/version");
}

static void fill(const struct fleet *f, struct place *place, const struct node_pods *n)
{
    *place = (struct place){
        .node = n->node,
        .access = f->access,
        .namespace = f->namespace,
        .agent = name_of(n->agent),
        .proxy = name_of(n->proxy),
        .agent_port = agent_port(container_of_name(n->agent, "bruma-agent")),
        .proxy_port = proxy_port(container_of_name(n->proxy, "istio-proxy")),
        .agent_version = label_of(n->agent),
        .proxy_version = label_of(n->proxy),
        .agent_ready = is_ready(n->agent),
        .proxy_ready = is_ready(n->proxy),
        .as_json = f->as_json,
    };
}

static int find_places(struct fleet *f, const struct fleet_config *config)
{
    size_t max = (size_t)cJSON_GetArraySize(f->pods);
    _cleanup_free_ struct node_pods *nodes = calloc(max + 1, sizeof(*nodes));

    if (!nodes)
        return CTL_PROBLEM;
    f->len = sort_pods(f->pods, config->node, nodes);
    f->places = calloc(f->len + 1, sizeof(*f->places));
    if (!f->places)
        return CTL_PROBLEM;
    for (size_t i = 0; i < f->len; i++)
        fill(f, &f->places[i], &nodes[i]);
    return CTL_OK;
}

/* ---- the whole ---- */

static int fail(const char *error, int code)
{
    fprintf(stderr, "brumactl: %s\n", error);
    return code;
}

/* node: "": of all. 0 or -errno, with words in error. */
static int list_pods(const struct fleet *f, const char *node, cJSON **ret, char *error)
{
    _cleanup_free_ char *path = NULL;
    char *escaped = curl_easy_escape(NULL, node, 0);
    int r = escaped ? 0 : -ENOMEM;

    if (r == 0 &&
        asprintf(&path,
                 "/api/v1/namespaces/%.260s/pods?labelSelector=app.kubernetes.io%%2Fpart-of%%3Dbruma%s%s",
                 f->namespace, *node ? "&fieldSelector=spec.nodeName%3D" : "", escaped) < 0) {
        path = NULL;
        r = -ENOMEM;
    }
    curl_free(escaped);
    snprintf(error, API_ERROR_MAX, "out of memory");
    if (r == 0)
        r = api_list(f->access, path, ret, error);
    if (r == 0)
        json_clean(*ret); /* a name has no such characters */
    return r;
}

int fleet_look_again(const struct fleet *f, const char *node, struct place *ret, cJSON **ret_pods,
                     char *error)
{
    struct node_pods found = {};
    cJSON *pods;
    int r = list_pods(f, node, &pods, error);

    if (r < 0)
        return r;
    if (sort_pods(pods, node, &found) == 0)
        found.node = node;
    fill(f, ret, &found);
    *ret_pods = pods;
    return 0;
}

int fleet_open(const struct fleet_config *config, struct fleet **ret)
{
    struct fleet *f = calloc(1, sizeof(*f));
    char error[KUBECONFIG_ERROR_MAX];
    int r;

    (void)signal(SIGPIPE, SIG_IGN); /* connections end on their own; stdout is looked after */
    if (f) {
        f->config = *config;
        f->namespace = strdup(config->namespace);
        f->as_json = config->as_json;
    }
    if (!f || !f->namespace || curl_global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK) {
        fleet_close(&f);
        return fail("out of memory", CTL_PROBLEM);
    }
    r = kubeconfig_load(config->kubeconfig, config->context, &f->access, error);
    if (r == 0)
        r = exec_credential_get(f->access, error);
    if (r < 0)
        r = fail(error, r == -EINVAL ? CTL_USAGE : CTL_UNREACHABLE);
    else
        r = list_pods(f, config->node ? config->node : "", &f->pods, error) < 0 ? fail(error, CTL_UNREACHABLE)
                                                                                : CTL_OK;
    descriptors_raise_limit(); /* several a node; not for the plugin, which has ended */
    if (r == CTL_OK)
        r = find_places(f, config);
    if (r == CTL_OK) {
        *ret = f;
        return r;
    }
    fleet_close(&f);
    return r;
}

int fleet_refresh(struct fleet **fleet)
{
    struct fleet *old = *fleet, *now = calloc(1, sizeof(*now));
    const char *node = old->config.node;
    char error[API_ERROR_MAX];
    int r = CTL_PROBLEM;

    if (now) {
        now->config = old->config;
        now->as_json = old->as_json;
        now->namespace = strdup(old->namespace);
    }
    if (now && now->namespace) {
        now->access = take_pointer(old->access);
        r = list_pods(now, node ? node : "", &now->pods, error) < 0 ? CTL_UNREACHABLE
                                                                    : find_places(now, &now->config);
        if (r != CTL_OK)
            old->access = take_pointer(now->access);
    }
    if (r != CTL_OK)
        fleet_close(&now);
    if (r == CTL_UNREACHABLE)
        r = fleet_open(&old->config, &now);
    if (r != CTL_OK)
        return r;
    fleet_close(fleet);
    *fleet = now;
    return r;
}

void fleet_close(struct fleet **fleet)
{
    struct fleet *f = *fleet;

    if (!f)
        return;
    kube_access_free(&f->access);
    free(f->namespace);
    free(f->places);
    cJSON_Delete(f->pods);
    free(f);
    *fleet = NULL;
}

void fleet_stop(struct fleet *fleet)
{
    kube_access_stop(fleet->access);
}

const struct kube_access *fleet_access(const struct fleet *fleet)
{
    return fleet->access;
}

const char *fleet_namespace(const struct fleet *fleet)
{
    return fleet->namespace;
}

size_t fleet_len(const struct fleet *fleet)
{
    return fleet->len;
}

const struct place *fleet_place(const struct fleet *fleet, size_t i)
{
    return &fleet->places[i];
}
