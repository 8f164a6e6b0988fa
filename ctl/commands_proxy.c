/* SPDX-License-Identifier: Apache-2.0 */
/* What the proxy knows: connections, policies, certificates, endpoints that have failed. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ctl/commands.h"
#include "ctl/gather.h"
#include "ctl/source.h"
#include "ctl/table.h"
#include "lib/cleanup.h"

static const cJSON *get(const cJSON *object, const char *key)
{
    return cJSON_GetObjectItemCaseSensitive(object, key);
}

static void add_connections(struct table *t, const struct node_answers *g, const char *node, const cJSON *pod,
                            const char *direction)
{
    const cJSON *info = get(pod, "info"), *c;
    char name[300], bytes[2][32];

    snprintf(name, sizeof(name), "%s/%s", text_of(info, "namespace"), text_of(info, "name"));
    cJSON_ArrayForEach (c, get(get(pod, "connections"), direction)) {
        bool inbound = !strcmp(direction, "inbound");
        const char *cells[] = {
            node,
            name,
            direction,
            text_of(c, "src"),
            text_of(c, "originalDst"),
            text_of(c, "actualDst"),
            text_of(c, "protocol"),
            get(c, "way") ? text_of(c, "way") : "proxy",
            text_of(c, inbound ? "srcIdentity" : "dstIdentity"),
            bytes[0],
            bytes[1],
        };

        snprintf(bytes[0], sizeof(bytes[0]), "%.0f", number_of(c, "bytesFromClient"));
        snprintf(bytes[1], sizeof(bytes[1]), "%.0f", number_of(c, "bytesToClient"));
        table_row(t, cells + !g->fleet);
    }
}

/* Of the pods of all answers those of one namespace stay. */
static void keep_namespace(const struct node_answers *g, const char *namespace)
{
    for (size_t i = 0; i < g->len; i++) {
        cJSON *pods = g->answers[i].json, *next;

        for (cJSON *pod = pods ? pods->child : NULL; pod; pod = next) {
            next = pod->next;
            if (strcmp(text_of(get(pod, "info"), "namespace"), namespace) != 0)
                cJSON_Delete(cJSON_DetachItemViaPointer(pods, pod));
        }
    }
}

int command_connections(const struct ctl_options *o, int argc, char **argv)
{
    static const char *const headers[] = {"NODE",     "POD", "DIRECTION", "CLIENT",      "DESTINATION", "VIA",
                                          "PROTOCOL", "WAY", "PEER",      "FROM CLIENT", "TO CLIENT"};
    struct node_answers g;
    struct table *t;
    const cJSON *pod;
    int r = gather(o, ask_dump, "workloadState", &g);

    (void)argc;
    (void)argv;
    if (r != CTL_OK)
        return r;
    if (o->namespace)
        keep_namespace(&g, o->namespace);
    if (o->json)
        return gathered_print(&g, "connections");
    t = table_new(headers + !g.fleet, array_size(headers) - !g.fleet);
    for (size_t i = 0; i < g.len; i++) {
        cJSON_ArrayForEach (pod, g.answers[i].json) {
            add_connections(t, &g, gathered_node(&g, i), pod, "inbound");
            add_connections(t, &g, gathered_node(&g, i), pod, "outbound");
        }
    }
    table_print(t, "No connection is open.", stdout);
    table_free(&t);
    return gathered_end(&g, CTL_OK);
}

/* The conditions of a rule, as JSON on one line: complete, and short enough for most. */
static void print_rules(const cJSON *rules)
{
    const cJSON *rule;

    cJSON_ArrayForEach (rule, rules) {
        char *text = cJSON_PrintUnformatted(rule);

        printf("    rule %s\n", text ? text : "");
        free(text);
    }
    if (!cJSON_GetArraySize(rules))
        puts("    no rule: matches nothing");
}

/* The policy of the same name and contents, or NULL. */
static const cJSON *same_policy(const cJSON *policies, const cJSON *policy)
{
    const cJSON *p;

    cJSON_ArrayForEach (p, policies) {
        if (cJSON_Compare(p, policy, true))
            return p;
    }
    return NULL;
}

/* ", on nodes n1, n3 only" in buf; "" if all that have answered have it. False: an earlier node has it, and
 * has told. */
static bool where(const struct node_answers *g, size_t node, const cJSON *policy, char *buf, size_t size)
{
    size_t n = 0;
    bool all = true;

    for (size_t i = 0; i < g->len; i++) {
        const cJSON *policies = g->answers[i].json;
        bool has = i == node || (policies && same_policy(policies, policy));

        if (has && i < node)
            return false;
        if (has && n < size)
            n += (size_t)snprintf(buf + n, size - n, "%s%s", n ? ", " : ", on nodes ", gathered_node(g, i));
        all = all && (has || !policies);
    }
    if (all)
        buf[0] = '\0';
    else if (n < size)
        snprintf(buf + n, size - n, " only");
    return true;
}

/* A line for each version of each policy: all nodes should have the same. */
static size_t print_policies(const struct node_answers *g, size_t node)
{
    const cJSON *p;
    size_t n = 0;

    cJSON_ArrayForEach (p, g->answers[node].json) {
        char nodes[600];

        n++;
        if (!where(g, node, p, nodes, sizeof(nodes)))
            continue;
        printf("%s/%s  %s, scope %s%s%s\n", text_of(p, "namespace"), text_of(p, "name"), text_of(p, "action"),
               text_of(p, "scope"), cJSON_IsTrue(get(p, "dryRun")) ? ", dry run" : "", nodes);
        print_rules(get(p, "rules"));
    }
    return n;
}

int command_policy(const struct ctl_options *o, int argc, char **argv)
{
    struct node_answers g;
    int r = gather(o, ask_dump, "policies", &g);
    size_t n = 0;

    (void)argc;
    (void)argv;
    if (r != CTL_OK)
        return r;
    if (o->json)
        return gathered_print(&g, "policies");
    for (size_t i = 0; i < g.len; i++)
        n += print_policies(&g, i);
    if (!n)
        puts("There is no policy: everything is allowed.");
    return gathered_end(&g, CTL_OK);
}

/* Whether there is no certificate. */
static bool add_identity(struct table *t, const struct node_answers *g, const char *node, const cJSON *c)
{
    const cJSON *leaf = cJSON_GetArrayItem(get(c, "certChain"), 0);
    char roots[16], state[300];
    const char *cells[] = {node,
                           text_of(c, "identity"),
                           text_of(c, "source"),
                           state,
                           text_of(leaf, "validFrom"),
                           text_of(leaf, "expirationTime"),
                           text_of(leaf, "serialNumber"),
                           roots};

    snprintf(state, sizeof(state), *text_of(c, "error") ? "%s, but no newer one: %s" : "%s",
             text_of(c, "state"), text_of(c, "error"));
    snprintf(roots, sizeof(roots), "%d", cJSON_GetArraySize(get(c, "rootCerts")));
    table_row(t, cells + !g->fleet);
    return !leaf;
}

int command_identities(const struct ctl_options *o, int argc, char **argv)
{
    static const char *const headers[] = {"NODE",       "IDENTITY", "SOURCE", "STATE",
                                          "VALID FROM", "VALID TO", "SERIAL", "ROOTS"};
    struct node_answers g;
    struct table *t;
    const cJSON *c;
    int r = gather(o, ask_dump, "certificates", &g), bad = 0;

    (void)argc;
    (void)argv;
    if (r != CTL_OK)
        return r;
    if (o->json)
        return gathered_print(&g, "identities");
    t = table_new(headers + !g.fleet, array_size(headers) - !g.fleet);
    for (size_t i = 0; i < g.len; i++) {
        cJSON_ArrayForEach (c, g.answers[i].json)
            bad += add_identity(t, &g, gathered_node(&g, i), c);
    }
    table_print(t,
                g.fleet ? "No identity is needed: no pod is in the mesh."
                        : "No identity is needed: no pod of the mesh is on this node.",
                stdout);
    table_free(&t);
    return gathered_end(&g, bad ? CTL_PROBLEM : CTL_OK);
}

/* "shop/cart-0": the workload at the address, or NULL. */
static const cJSON *workload_at(const cJSON *dump, const char *address)
{
    const cJSON *w, *ip;

    cJSON_ArrayForEach (w, get(dump, "workloads")) {
        cJSON_ArrayForEach (ip, get(w, "workloadIps")) {
            if (cJSON_IsString(ip) && !strcmp(ip->valuestring, address))
                return w;
        }
    }
    return NULL;
}

/* Without the port and what surrounds an IPv6 address. */
static void address_of(const char *endpoint, bool leaving, char *buf, size_t size)
{
    const char *colon = leaving ? NULL : strrchr(endpoint, ':');
    bool v6 = !leaving && *endpoint == '[';

    snprintf(buf, size, "%.*s", colon ? (int)(colon - endpoint) - 2 * v6 : (int)strlen(endpoint),
             endpoint + v6);
}

/* Each worker chooses for itself: how many leave this one out, and for how long the last one does. */
static int workers_of(const cJSON *all, const cJSON *endpoint, double *ret_milliseconds)
{
    const cJSON *e;
    int n = 0;

    *ret_milliseconds = 0;
    cJSON_ArrayForEach (e, all) {
        if (strcmp(text_of(e, "endpoint"), text_of(endpoint, "endpoint")) != 0 ||
            strcmp(text_of(e, "why"), text_of(endpoint, "why")) != 0)
            continue;
        if (e == endpoint && n)
            return 0; /* an earlier one has told it */
        n++;
        if (number_of(e, "milliseconds") > *ret_milliseconds)
            *ret_milliseconds = number_of(e, "milliseconds");
    }
    return n;
}

static void add_endpoints(struct table *t, const struct node_answers *g, const char *node, const cJSON *dump)
{
    const cJSON *e, *all = get(dump, "endpointsLeftOut");

    cJSON_ArrayForEach (e, all) {
        bool leaving = !strcmp(text_of(e, "why"), "leaving");
        char address[64], name[600] = "", time[32], workers[16];
        const cJSON *workload;
        double milliseconds;
        int n = workers_of(all, e, &milliseconds);
        const char *cells[] = {
            node, text_of(e, "endpoint"), name, text_of(e, "why"), text_of(e, "reason"), time, workers};

        if (!n)
            continue;
        address_of(text_of(e, "endpoint"), leaving, address, sizeof(address));
        workload = workload_at(dump, address);
        if (workload)
            snprintf(name, sizeof(name), "%s/%s", text_of(workload, "namespace"), text_of(workload, "name"));
        snprintf(time, sizeof(time), "%.1fs", milliseconds / 1000);
        snprintf(workers, sizeof(workers), "%d", n);
        table_row(t, cells + !g->fleet);
    }
}

int command_endpoints(const struct ctl_options *o, int argc, char **argv)
{
    static const char *const headers[] = {"NODE", "ENDPOINT", "WORKLOAD", "WHY", "REASON", "FOR", "WORKERS"};
    struct node_answers g;
    struct table *t;
    int r = gather(o, ask_dump, o->json ? "endpointsLeftOut" : NULL, &g);

    (void)argc;
    (void)argv;
    if (r != CTL_OK)
        return r;
    if (o->json)
        return gathered_print(&g, "endpoints");
    t = table_new(headers + !g.fleet, array_size(headers) - !g.fleet);
    for (size_t i = 0; i < g.len; i++)
        add_endpoints(t, &g, gathered_node(&g, i), g.answers[i].json);
    table_print(t, "No endpoint is left out.", stdout);
    table_free(&t);
    return gathered_end(&g, CTL_OK);
}
