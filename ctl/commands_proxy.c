/* SPDX-License-Identifier: Apache-2.0 */
/* What the proxy knows: connections, policies, certificates, endpoints that have failed. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ctl/commands.h"
#include "ctl/source.h"
#include "ctl/table.h"
#include "lib/cleanup.h"

static const cJSON *get(const cJSON *object, const char *key)
{
    return cJSON_GetObjectItemCaseSensitive(object, key);
}

/* Prints one part of the dump and frees it all. */
static int print_part(cJSON *dump, const char *key)
{
    char *text = cJSON_Print(get(dump, key));

    puts(text ? text : "null");
    free(text);
    cJSON_Delete(dump);
    return CTL_OK;
}

static void add_connections(struct table *t, const cJSON *pod, const char *direction)
{
    const cJSON *info = get(pod, "info"), *c;
    char name[300], bytes[2][32];

    snprintf(name, sizeof(name), "%s/%s", text_of(info, "namespace"), text_of(info, "name"));
    cJSON_ArrayForEach (c, get(get(pod, "connections"), direction)) {
        bool inbound = !strcmp(direction, "inbound");
        const char *cells[] = {
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
        table_row(t, cells);
    }
}

int command_connections(const struct ctl_options *o, int argc, char **argv)
{
    static const char *const headers[] = {"POD",      "DIRECTION", "CLIENT", "DESTINATION", "VIA",
                                          "PROTOCOL", "WAY",       "PEER",   "FROM CLIENT", "TO CLIENT"};
    struct table *t;
    cJSON *dump;
    const cJSON *pod;
    int r = proxy_dump(o->run_dir, &dump);

    (void)argc;
    (void)argv;
    if (r != CTL_OK)
        return r;
    if (o->json)
        return print_part(dump, "workloadState");
    t = table_new(headers, array_size(headers));
    cJSON_ArrayForEach (pod, get(dump, "workloadState")) {
        add_connections(t, pod, "inbound");
        add_connections(t, pod, "outbound");
    }
    table_print(t, "No connection is open.", stdout);
    table_free(&t);
    cJSON_Delete(dump);
    return CTL_OK;
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

int command_policy(const struct ctl_options *o, int argc, char **argv)
{
    cJSON *dump;
    const cJSON *p;
    int r = proxy_dump(o->run_dir, &dump);

    (void)argc;
    (void)argv;
    if (r != CTL_OK)
        return r;
    if (o->json)
        return print_part(dump, "policies");
    cJSON_ArrayForEach (p, get(dump, "policies")) {
        printf("%s/%s  %s, scope %s%s\n", text_of(p, "namespace"), text_of(p, "name"), text_of(p, "action"),
               text_of(p, "scope"), cJSON_IsTrue(get(p, "dryRun")) ? ", dry run" : "");
        print_rules(get(p, "rules"));
    }
    if (!cJSON_GetArraySize(get(dump, "policies")))
        puts("There is no policy: everything is allowed.");
    cJSON_Delete(dump);
    return CTL_OK;
}

int command_identities(const struct ctl_options *o, int argc, char **argv)
{
    static const char *const headers[] = {"IDENTITY", "STATE", "VALID FROM", "VALID TO", "SERIAL", "ROOTS"};
    struct table *t;
    cJSON *dump;
    const cJSON *c;
    int r = proxy_dump(o->run_dir, &dump), bad = 0;

    (void)argc;
    (void)argv;
    if (r != CTL_OK)
        return r;
    if (o->json)
        return print_part(dump, "certificates");
    t = table_new(headers, array_size(headers));
    cJSON_ArrayForEach (c, get(dump, "certificates")) {
        const cJSON *leaf = cJSON_GetArrayItem(get(c, "certChain"), 0);
        char roots[16];
        const char *cells[] = {text_of(c, "identity"),        text_of(c, "state"),
                               text_of(leaf, "validFrom"),    text_of(leaf, "expirationTime"),
                               text_of(leaf, "serialNumber"), roots};

        snprintf(roots, sizeof(roots), "%d", cJSON_GetArraySize(get(c, "rootCerts")));
        bad += !leaf;
        table_row(t, cells);
    }
    table_print(t, "No identity is needed: no pod of the mesh is on this node.", stdout);
    table_free(&t);
    cJSON_Delete(dump);
    return bad ? CTL_PROBLEM : CTL_OK;
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

int command_endpoints(const struct ctl_options *o, int argc, char **argv)
{
    static const char *const headers[] = {"ENDPOINT", "WORKLOAD", "WHY", "REASON", "FOR", "WORKERS"};
    struct table *t;
    cJSON *dump;
    const cJSON *e, *all;
    int r = proxy_dump(o->run_dir, &dump);

    (void)argc;
    (void)argv;
    if (r != CTL_OK)
        return r;
    if (o->json)
        return print_part(dump, "endpointsLeftOut");
    all = get(dump, "endpointsLeftOut");
    t = table_new(headers, array_size(headers));
    cJSON_ArrayForEach (e, all) {
        bool leaving = !strcmp(text_of(e, "why"), "leaving");
        char address[64], name[600] = "", time[32], workers[16];
        const cJSON *workload;
        double milliseconds;
        int n = workers_of(all, e, &milliseconds);

        if (!n)
            continue;
        address_of(text_of(e, "endpoint"), leaving, address, sizeof(address));
        workload = workload_at(dump, address);
        if (workload)
            snprintf(name, sizeof(name), "%s/%s", text_of(workload, "namespace"), text_of(workload, "name"));
        snprintf(time, sizeof(time), "%.1fs", milliseconds / 1000);
        snprintf(workers, sizeof(workers), "%d", n);
        table_row(t, (const char *const[]){text_of(e, "endpoint"), name, text_of(e, "why"),
                                           text_of(e, "reason"), time, workers});
    }
    table_print(t, "No endpoint is left out.", stdout);
    table_free(&t);
    cJSON_Delete(dump);
    return CTL_OK;
}
