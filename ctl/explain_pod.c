/* SPDX-License-Identifier: Apache-2.0 */
/* Where a pod is, in a cluster, and what both ends say of a pair of them. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ctl/explain.h"
#include "ctl/gather.h"
#include "ctl/say.h"
#include "ctl/source.h"
#include "lib/cleanup.h"

#define DEFAULT_PORT "80" /* of a pod that is named without one */

/* ---- pods of all nodes ---- */

static const cJSON *pod_of(const cJSON *pods, const char *name)
{
    const cJSON *p;
    char text[600];

    cJSON_ArrayForEach (p, pods) {
        snprintf(text, sizeof(text), "%s/%s", text_of(p, "namespace"), text_of(p, "name"));
        if (!strcmp(text, name))
            return p;
    }
    return NULL;
}

/* The node that has it; *ret_pod is what its agent says. NULL: none of those that have answered. */
static const struct place *find(const struct node_answers *pods, const char *name, const cJSON **ret_pod)
{
    for (size_t i = 0; i < pods->len; i++) {
        *ret_pod = pod_of(pods->answers[i].json, name);
        if (*ret_pod)
            return pods->fleet ? fleet_place(pods->options->fleet, i) : &pods->options->place;
    }
    return NULL;
}

static int nowhere(const struct node_answers *pods, const char *name)
{
    fprintf(stderr, "brumactl: no node knows a pod %s\n", name);
    for (size_t i = 0; i < pods->len; i++) {
        if (pods->answers[i].code != CTL_OK)
            fprintf(stderr, "brumactl: node %s: %s\n", gathered_node(pods, i), pods->answers[i].complaint);
    }
    return CTL_PROBLEM;
}

/* ---- one connection ---- */

static void append(cJSON *lines, cJSON *more)
{
    while (more && more->child)
        cJSON_AddItemToArray(lines, cJSON_DetachItemViaPointer(more, more->child));
    cJSON_Delete(more);
}

/* What the node says of a pod of its own. */
static int say_pod(const struct place *place, const char *pod, cJSON *lines)
{
    cJSON *items;
    int r = agent_query(place, "explain", pod, &items);

    if (r == CTL_OK)
        append(lines, items);
    return r;
}

static void say_node(cJSON *lines, const char *which, const struct place *place, const char *pod)
{
    if (place->node)
        say(lines, which, NULL, "%s is on node %s", pod, place->node);
}

/* "NAMESPACE/NAME:8080": the address of the pod with that port, in buf. False: it has none. */
static bool endpoint_of(const cJSON *pod, const char *port, char *buf, size_t size)
{
    const char *ip =
        cJSON_GetStringValue(cJSON_GetArrayItem(cJSON_GetObjectItemCaseSensitive(pod, "ips"), 0));

    if (ip)
        snprintf(buf, size, strchr(ip, ':') ? "[%s]:%s" : "%s:%s", ip, port);
    return ip != NULL;
}

/* Both ends: how the source's node would send it, and the state of the pod that it goes to. */
static int say_pair(const struct node_answers *pods, const struct place *from, const char *pod,
                    const char *target, cJSON *lines)
{
    _cleanup_free_ char *name = strdup(target);
    char *port = name ? strrchr(name, ':') : NULL, endpoint[128];
    const struct place *to;
    const cJSON *other;
    int r;

    if (!name)
        return CTL_PROBLEM;
    if (port)
        *port++ = '\0';
    to = find(pods, name, &other);
    if (!to)
        return nowhere(pods, name);
    if (!endpoint_of(other, port ? port : DEFAULT_PORT, endpoint, sizeof(endpoint))) {
        fprintf(stderr, "brumactl: the address of %s is not known\n", name);
        return CTL_PROBLEM;
    }
    say_node(lines, "to", to, name);
    if (!port)
        say(lines, "port", NULL, "no port was named: %s is taken", DEFAULT_PORT);
    r = explain_connection(from, pod, endpoint, lines);
    return r == CTL_OK ? say_pod(to, name, lines) : r;
}

static int say_all(const struct node_answers *pods, const char *pod, const char *target, cJSON *lines)
{
    const cJSON *found;
    const struct place *from = find(pods, pod, &found);

    if (!from)
        return nowhere(pods, pod);
    say_node(lines, "from", from, pod);
    if (!target)
        return say_pod(from, pod, lines);
    return strchr(target, '/') ? say_pair(pods, from, pod, target, lines)
                               : explain_connection(from, pod, target, lines);
}

int explain_pod(const struct ctl_options *o, const char *pod, const char *target, cJSON **ret)
{
    bool alone = !o->fleet && (!target || !strchr(target, '/'));
    cJSON *lines = cJSON_CreateArray();
    struct node_answers pods;
    int r;

    if (alone && target) {
        r = explain_connection(&o->place, pod, target, lines);
    } else if (alone) {
        r = say_pod(&o->place, pod, lines);
    } else {
        r = gather(o, ask_agent_op, "pods", &pods);
        if (r == CTL_OK) {
            r = say_all(&pods, pod, target, lines);
            fleet_answers_free(&pods.answers, pods.len);
        }
    }
    if (r == CTL_OK)
        *ret = lines;
    else
        cJSON_Delete(lines);
    return r;
}
