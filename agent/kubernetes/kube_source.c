/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/kubernetes/kube_source.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent/enroll/adopt.h"
#include "agent/enroll/enroll.h"
#include "agent/enroll/guard.h"
#include "agent/kubernetes/kube_decisions.h"
#include "agent/kubernetes/kube_pods.h"
#include "bruma/mesh.h"
#include "lib/message.h"

#define LOG_SCOPE "kube"
#include "lib/log.h"

#define PAGE 250 /* objects of a page of a list */

/* ---- moving pods ---- */

static struct kube_pod *of(const struct source *source, const struct pod *pod)
{
    return kube_pod_find(container_of(source, struct kube_source, source), pod->uid, pod->container_id,
                         pod->namespace, pod->name);
}

/* Of the mesh; or, for the guard, of the pods that may use the network without it. */
static bool must_be_found(const struct kube_pod *pod)
{
    const char *why;

    if (kube_pod_wanted(pod->source, pod, &why))
        return true;
    return guard_wanted(pod->source->agent) && !pod->host_network && !pod->completed && !pod->passed;
}

static void pass_no_more(struct kube_pod *pod)
{
    guard_forget(pod->source->agent, pod->passed);
    pod->passed = 0;
}

static void reconcile(struct kube_pod *pod)
{
    struct kube_source *s = pod->source;
    struct agent *agent = s->agent;
    struct pod *p = kube_agent_pod(pod);
    const char *why;

    if (kube_namespace_by_name(s, pod->namespace))
        source_heard(&s->source, pod->namespace, pod->name);
    if (!kube_ready(s) || !kube_namespace_by_name(s, pod->namespace))
        return;
    if (!kube_pod_wanted(s, pod, &why))
        pod->was_outside = true;
    if (pod->passed && (p || kube_pod_wanted(s, pod, &why)))
        pass_no_more(pod);
    if (p || !must_be_found(pod))
        locate_netns_stop(pod);
    else if (pod->addresses_len)
        locate_netns(pod);
    if (p) {
        adopt_uid(agent, p, pod->runtime_uid);
        if (!p->addresses_len)
            (void)pod_merge_addresses(p, pod->addresses, pod->addresses_len);
        enroll_reconcile(agent, p);
        kube_ending_check(pod, false);
    }
    kube_status_check(pod);
}

/* ---- answers to the core ---- */

static bool op_ready(const struct source *source)
{
    return kube_ready(container_of(source, struct kube_source, source));
}

static bool op_knows(const struct source *source, const char *uid, const char *container_id,
                     const char *namespace, const char *name)
{
    const struct kube_source *s = container_of(source, struct kube_source, source);
    const struct kube_pod *pod = kube_pod_find(s, uid, container_id, namespace, name);

    return pod && kube_namespace_by_name(s, pod->namespace);
}

static bool op_wanted(const struct source *source, const struct pod *p, const char **ret_why)
{
    const struct kube_pod *pod = of(source, p);

    *ret_why = "the pod is not known from the API server";
    return pod && kube_pod_wanted(pod->source, pod, ret_why);
}

static bool op_excludes(const struct source *source, const char *namespace)
{
    return kube_excludes(container_of(source, struct kube_source, source), namespace);
}

static int op_service_account(const struct source *source, const struct pod *p, char *buf, size_t size)
{
    const struct kube_pod *pod = of(source, p);
    const char *account = pod ? pod->service_account : p->enrollment->service_account;

    if (strlen(account) >= size)
        return -ENAMETOOLONG;
    if (buf != account)
        snprintf(buf, size, "%s", account);
    return 0;
}

static bool op_bypass_inbound(const struct source *source, const struct pod *p)
{
    const struct kube_pod *pod = of(source, p);

    return pod ? pod->bypass_inbound : p->enrollment->bypass_inbound;
}

/* Of a pod that was deleted from the API and is still here nothing changes. */
static bool op_dns_capture(const struct source *source, const struct pod *p, bool otherwise)
{
    const struct kube_pod *pod = of(source, p);

    if (!pod)
        return p->enrollment->dns_socket >= 0;
    return pod->dns_capture == KUBE_DNS_UNSAID ? otherwise : pod->dns_capture == KUBE_DNS_ON;
}

/* Of a pod that was deleted from the API and is still here nothing changes. */
static enum outbound_policy op_outbound_policy(const struct source *source, const struct pod *p,
                                               const char **ret_why)
{
    const struct kube_pod *pod = of(source, p);

    *ret_why = "as it was: the pod is not known from the API server";
    return pod ? kube_outbound_policy(pod->source, pod, ret_why) : p->enrollment->outbound_policy;
}

/* Of a pod that was deleted from the API and is still here nothing changes. */
static struct direct_switches op_direct(const struct source *source, const struct pod *p)
{
    const struct kube_pod *pod = of(source, p);
    const struct kube_namespace *n = pod ? kube_namespace_by_name(pod->source, pod->namespace) : NULL;
    const struct direct_switches none = {0};

    return pod ? direct_switches_join(pod->direct, n ? n->direct : none) : p->enrollment->direct;
}

static bool op_exclusions(const struct source *source, const struct pod *p,
                          const struct steer_exclusions **ret)
{
    const struct kube_pod *pod = of(source, p);

    if (pod)
        *ret = pod->exclusions;
    return pod != NULL;
}

static int op_probe_ports(const struct source *source, const struct pod *p, const uint16_t **ret)
{
    const struct kube_pod *pod = of(source, p);

    if (!pod)
        return 0;
    *ret = pod->probe_ports;
    return pod->probe_ports_len;
}

/* Certificates are somebody else's. */
static void op_expect(struct source *source, const struct pod *pod)
{
    (void)source, (void)pod;
}

static void op_announce(struct source *source, const struct pod *p)
{
    struct kube_pod *pod = of(source, p);

    if (!pod)
        return;
    kube_ending_check(pod, false);
    kube_status_check(pod);
}

static bool op_acked(const struct source *source, const struct pod *p)
{
    struct kube_pod *pod = of(source, p);

    return !pod || kube_status_is_acked(pod);
}

static void op_forget(struct source *source, const char *uid)
{
    struct kube_source *s = container_of(source, struct kube_source, source);
    struct kube_pod *pod;

    list_for_each (pod, &s->pods, node) {
        if (strcmp(pod->runtime_uid, uid) != 0)
            continue;
        /* The agent still has it just now. */
        pod->left = true;
        kube_status_soon(pod);
    }
}

static void op_report_failure(struct source *source, const struct pod *p, enum bruma_reason reason,
                              const char *text)
{
    struct kube_pod *pod = of(source, p);

    if (pod && reason != BRUMA_REASON_NONE)
        kube_status_event(pod, reason, text);
}

static void report_watch(cJSON *object, const char *name, const struct kube_watch *watch)
{
    const struct kube_watch_report *r = kube_watch_report(watch);
    cJSON *o = cJSON_AddObjectToObject(object, name);

    cJSON_AddBoolToObject(o, "synced", r->synced);
    cJSON_AddBoolToObject(o, "following", r->following);
    cJSON_AddNumberToObject(o, "since", (double)r->since);
    cJSON_AddNumberToObject(o, "lists", r->lists);
    cJSON_AddNumberToObject(o, "watches", r->restarts);
    cJSON_AddStringToObject(o, "error", r->error);
}

static const char *source_error(const struct kube_source *s)
{
    const char *error = kube_watch_report(s->watch_pods)->error;

    if (!*error)
        error = kube_watch_report(s->watch_namespaces)->error;
    return *error || !s->mesh_config.watch ? error : kube_watch_report(s->mesh_config.watch)->error;
}

static void op_report(const struct source *source, cJSON *object)
{
    const struct kube_source *s = container_of(source, struct kube_source, source);
    cJSON *lost = cJSON_AddArrayToObject(object, "podsNotFound");
    const struct kube_namespace *n;
    const struct kube_pod *pod;
    int pods = 0, namespaces = 0;

    list_for_each (n, &s->namespaces, node)
        namespaces++;
    list_for_each (pod, &s->pods, node) {
        char text[800];

        pods++;
        if (!*pod->locate_error)
            continue;
        snprintf(text, sizeof(text), "%s/%s: %s", pod->namespace, pod->name, pod->locate_error);
        cJSON_AddItemToArray(lost, cJSON_CreateString(text));
    }
    cJSON_AddStringToObject(object, "source", source->ops->name);
    cJSON_AddStringToObject(object, "apiServer", kube_client_server(s->client));
    cJSON_AddBoolToObject(object, "sourceReady", kube_ready(s));
    cJSON_AddStringToObject(object, "sourceError", source_error(s));
    cJSON_AddNumberToObject(object, "namespaces", namespaces);
    cJSON_AddNumberToObject(object, "podsOfNode", pods);
    report_watch(object, "watchPods", s->watch_pods);
    report_watch(object, "watchNamespaces", s->watch_namespaces);
    if (s->mesh_config.watch)
        report_watch(object, "watchMeshConfig", s->mesh_config.watch);
    cJSON_AddStringToObject(object, "outboundTrafficPolicy", outbound_policy_name(s->mesh_config.policy));
    cJSON_AddStringToObject(object, "meshConfigError", s->mesh_config.error);
}

static enum bruma_reason op_check(const struct source *source, char *text, size_t size)
{
    const struct kube_source *s = container_of(source, struct kube_source, source);
    const char *error = source_error(s);
    bool ready = kube_ready(s);

    if (*error)
        snprintf(text, size, "%s", error);
    else
        snprintf(text, size, "%s",
                 ready ? "all pods and namespaces are known and watched" : source->ops->not_ready);
    if (*error)
        return BRUMA_REASON_API_UNREACHABLE;
    if (*s->mesh_config.error) {
        snprintf(text, size, "%s: %s", s->mesh_config.selector, s->mesh_config.error);
        return BRUMA_REASON_MESH_CONFIG_INVALID;
    }
    return ready ? BRUMA_REASON_NONE : BRUMA_REASON_AGENT_NOT_READY;
}

static bool op_serving(const struct source *source, struct source_serving *ret)
{
    (void)source, (void)ret;
    return false;
}

static void op_close(struct source *source)
{
    struct kube_source *s = container_of(source, struct kube_source, source);

    locate_netns_close(s);
    kube_decisions_close(s);
    kube_watch_free(&s->watch_pods);
    kube_watch_free(&s->watch_namespaces);
    kube_mesh_config_close(&s->mesh_config);
    kube_cache_free(s);
    kube_client_free(&s->client);
    kube_selectors_free(&s->selectors);
    free(s);
}

/* The decisions of this source are written by itself: see kube_decisions.h. */
static void op_outside(const struct source *source, cJSON *namespaces)
{
    (void)source, (void)namespaces;
}

static const struct source_ops ops = {
    .name = "kubernetes",
    .not_ready = "pods, namespaces and the mesh configuration have not all been read from the API server yet",
    .tells_endings = true,
    .ready = op_ready,
    .knows = op_knows,
    .wanted = op_wanted,
    .excludes = op_excludes,
    .service_account = op_service_account,
    .bypass_inbound = op_bypass_inbound,
    .dns_capture = op_dns_capture,
    .outbound_policy = op_outbound_policy,
    .direct = op_direct,
    .exclusions = op_exclusions,
    .probe_ports = op_probe_ports,
    .expect = op_expect,
    .announce = op_announce,
    .acked = op_acked,
    .forget = op_forget,
    .report_failure = op_report_failure,
    .report = op_report,
    .check = op_check,
    .serving = op_serving,
    .outside = op_outside,
    .close = op_close,
};

/* ---- the source ---- */

bool kube_source_configured(const struct agent_settings *settings)
{
    return !strcmp(settings->source, "kubernetes");
}

/* A pod's environment names the server. */
static int server_of(const struct agent_settings *settings, char *buf, size_t size)
{
    const char *host = getenv("KUBERNETES_SERVICE_HOST"), *port = getenv("KUBERNETES_SERVICE_PORT");
    bool v6 = host && strchr(host, ':');
    int n;

    if (settings->kube_server)
        n = snprintf(buf, size, "%s", settings->kube_server);
    else if (host && *host)
        n = snprintf(buf, size, "https://%s%s%s:%s", v6 ? "[" : "", host, v6 ? "]" : "",
                     port && *port ? port : "443");
    else
        return -ENOENT;
    return n < (int)size ? 0 : -ENAMETOOLONG;
}

int kube_open_client(struct loop *loop, const struct agent_settings *settings, struct kube_client **ret)
{
    char server[600];
    const struct kube_client_config c = {
        .server = server, .ca_file = settings->kube_ca, .token_file = settings->kube_token_file};
    int r = server_of(settings, server, sizeof(server));

    if (r == -ENOENT) {
        log_error("no API server is named: neither kube-server nor KUBERNETES_SERVICE_HOST is set");
        return -EINVAL;
    }
    if (r == 0)
        r = kube_client_new(loop, &c, ret);
    if (r < 0)
        return log_error_errno(r, "the API server cannot be used; it must be an https URL\tkube-server=%s",
                               server);
    return 0;
}

static int open_selectors(struct kube_source *s)
{
    const char *text = s->agent->settings->enablement_selector;
    char error[512], quoted[1100];
    int r = kube_selectors_parse(text, &s->selectors, error, sizeof(error));

    s->default_selectors = !strcmp(text, KUBE_DEFAULT_SELECTORS);
    if (r < 0)
        log_error("the enablement selectors cannot be used\terror=%s",
                  log_quote(quoted, sizeof(quoted), error));
    return r;
}

static void on_mesh_config(void *data)
{
    kube_cache_reconcile_all(data);
}

static int open_mesh_config(struct kube_source *s)
{
    const struct agent_settings *set = s->agent->settings;
    int r = kube_mesh_config_open(&s->mesh_config, s->agent->loop, s->client, set->mesh_config,
                                  set->system_namespace, on_mesh_config, s);

    if (r < 0)
        log_error_errno(r,
                        "the mesh configuration cannot be followed; it must be NAME or NAMESPACE/NAME\t"
                        "mesh-config=%s",
                        set->mesh_config);
    return r;
}

static int open_watches(struct kube_source *s)
{
    const struct kube_watch_config pods = {
        .what = "pods", .path = "/api/v1/pods", .selector = s->selector, .page = PAGE};
    const struct kube_watch_config namespaces = {
        .what = "namespaces", .path = "/api/v1/namespaces", .page = PAGE};
    const struct kube_watch_events pods_events = kube_cache_pods_events(s);
    const struct kube_watch_events namespaces_events = kube_cache_namespaces_events(s);
    int r;

    snprintf(s->selector, sizeof(s->selector), "spec.nodeName=%s", s->agent->settings->node);
    r = kube_watch_new(s->agent->loop, s->client, &namespaces, &namespaces_events, &s->watch_namespaces);
    return r < 0 ? r : kube_watch_new(s->agent->loop, s->client, &pods, &pods_events, &s->watch_pods);
}

int kube_source_open(struct agent *agent, struct source **ret)
{
    struct kube_source *s = calloc(1, sizeof(*s));
    struct source *source;
    int r;

    if (!s)
        return log_error_errno(-ENOMEM, "no memory for the source");
    source_init(&s->source, &ops);
    s->agent = agent;
    s->reconcile = reconcile;
    kube_cache_init(s);
    locate_netns_open(s);
    kube_decisions_open(s);
    source = &s->source;
    r = open_selectors(s);
    if (r == 0)
        r = kube_open_client(agent->loop, agent->settings, &s->client);
    if (r == 0 && (r = open_watches(s)) < 0)
        log_error_errno(r, "no memory for the source");
    if (r == 0)
        r = open_mesh_config(s);
    if (r < 0) {
        source_close(&source);
        return r;
    }
    log_info("the Kubernetes API is the source\tserver=%s node=%s", kube_client_server(s->client),
             agent->settings->node);
    *ret = source;
    return 0;
}
