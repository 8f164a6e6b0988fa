/* SPDX-License-Identifier: Apache-2.0 */
/* What the agent knows: status, pods, explain, doctor; and what it is told: end. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "ctl/commands.h"
#include "ctl/explain.h"
#include "ctl/gather.h"
#include "ctl/source.h"
#include "ctl/table.h"
#include "lib/cleanup.h"
#include "lib/reasons.h"

static const char *age(double since, char *buf, size_t size)
{
    long seconds = (long)time(NULL) - (long)since;

    if (since <= 0)
        return "never";
    if (seconds < 120)
        snprintf(buf, size, "%lds ago", seconds < 0 ? 0 : seconds);
    else if (seconds < 7200)
        snprintf(buf, size, "%ldm ago", seconds / 60);
    else
        snprintf(buf, size, "%ldh ago", seconds / 3600);
    return buf;
}

/* "route_missing 2, link_detached 1" */
static const char *counts(const cJSON *object, char *buf, size_t size)
{
    const cJSON *item;
    size_t len = 0;

    buf[0] = '\0';
    cJSON_ArrayForEach (item, object) {
        double n = cJSON_IsObject(item) ? number_of(item, "count") : item->valuedouble;

        if (n > 0 && len < size)
            len += (size_t)snprintf(buf + len, size - len, "%s%s %.0f", len ? ", " : "", item->string, n);
    }
    return buf;
}

static void field(const char *name, const char *value)
{
    printf("%-16s %s\n", name, *value ? value : "-");
}

static void print_problems(const cJSON *problems)
{
    const cJSON *p;

    cJSON_ArrayForEach (p, problems) {
        printf("\nproblem: %s (%s)\n", text_of(p, "what"), text_of(p, "reason"));
        if (*text_of(p, "detail"))
            printf("  seen:    %s\n", text_of(p, "detail"));
        if (*text_of(p, "check"))
            printf("  check: %s\n", text_of(p, "check"));
    }
}

/* What a proxy has got from the one before. */
static void print_hand_over(const cJSON *h)
{
    char buf[512];

    if (!h)
        return;
    snprintf(buf, sizeof(buf),
             "%.0f connections in %.0f ms, each stood still for %.1f ms at most; %.0f stayed%s%s",
             number_of(h, "moved"), number_of(h, "milliseconds"), number_of(h, "pauseMicroseconds") / 1000,
             number_of(h, "left"), *text_of(h, "why") ? ": " : "", text_of(h, "why"));
    field("handed over", buf);
}

static void print_proxies(const cJSON *proxies)
{
    const cJSON *p;

    /* A stock proxy does not tell its version. */
    cJSON_ArrayForEach (p, proxies)
        printf("%-16s pid %.0f, %s%s, %s, %.0f pods%s%s\n", "proxy", number_of(p, "pid"),
               *text_of(p, "version") ? "version " : "",
               *text_of(p, "version") ? text_of(p, "version") : text_of(p, "kind"), text_of(p, "state"),
               number_of(p, "podsServing"), *text_of(p, "compliance") ? ", " : "", text_of(p, "compliance"));
    if (!cJSON_GetArraySize(proxies))
        field("proxy", "none is connected");
    cJSON_ArrayForEach (p, proxies)
        print_hand_over(cJSON_GetObjectItemCaseSensitive(p, "handOver"));
}

static void print_mesh_file(const cJSON *s)
{
    char buf[512];

    snprintf(buf, sizeof(buf), "%s: %.0f namespaces, %.0f workloads, %.0f services, %.0f policies",
             text_of(s, "meshFile"), number_of(s, "namespaces"), number_of(s, "workloads"),
             number_of(s, "services"), number_of(s, "policies"));
    field("mesh", buf);
    snprintf(buf, sizeof(buf), "%s, clients: %.0f", text_of(s, "xdsAddress"), number_of(s, "xdsClients"));
    field("control plane", buf);
}

/* Where the agent has its knowledge of pods from. */
static void print_source(const cJSON *s)
{
    char buf[512];

    if (strcmp(text_of(s, "source"), "kubernetes") != 0) {
        print_mesh_file(s);
        return;
    }
    snprintf(buf, sizeof(buf), "%s, %s; %.0f namespaces, %.0f pods of this node", text_of(s, "apiServer"),
             *text_of(s, "sourceError")                                         ? "not watched at the moment"
             : cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(s, "sourceReady")) ? "followed"
                                                                                : "has not answered yet",
             number_of(s, "namespaces"), number_of(s, "podsOfNode"));
    field("Kubernetes API", buf);
}

static void print_guard(const cJSON *g)
{
    bool closed = cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(g, "closed"));
    double seconds = number_of(g, "closedMilliseconds") / 1000;
    char buf[512];

    if (!g || !strcmp(text_of(g, "mode"), "off")) {
        field("guard", "off");
        return;
    }
    if (closed)
        snprintf(buf, sizeof(buf), "%s, closed for %.1fs, %.0f undecided; waits for: %s", text_of(g, "mode"),
                 seconds, number_of(g, "undecided"), text_of(g, "waitsFor"));
    else
        snprintf(buf, sizeof(buf), "%s, open; was closed for %.1fs", text_of(g, "mode"), seconds);
    field("guard", buf);
}

static void print_status(const cJSON *s)
{
    const cJSON *pods = cJSON_GetObjectItemCaseSensitive(s, "pods");
    char buf[512];

    snprintf(buf, sizeof(buf), "pid %.0f, version %s, started %s%s%s", number_of(s, "pid"),
             text_of(s, "version"), age(number_of(s, "startedAt"), buf + 300, 100),
             *text_of(s, "compliance") ? ", " : "", text_of(s, "compliance"));
    field("agent", buf);
    field("node", text_of(s, "node"));
    print_proxies(cJSON_GetObjectItemCaseSensitive(s, "proxies"));
    field("pods", counts(pods, buf, sizeof(buf)));
    print_source(s);
    if (cJSON_HasObjectItem(s, "cniFile"))
        field("CNI network", *text_of(s, "cniReason") ? text_of(s, "cniError") : text_of(s, "cniFile"));
    field("trust domain", text_of(s, "trustDomain"));
    snprintf(buf, sizeof(buf), "%s (%s)", text_of(s, "cgroup"), text_of(s, "cgroupHooks"));
    field("connect hooks", buf);
    if (!strcmp(text_of(s, "source"), "kubernetes"))
        print_guard(cJSON_GetObjectItemCaseSensitive(s, "guard"));
    if (number_of(s, "capturedLate") > 0) {
        snprintf(buf, sizeof(buf), "%.0f pods, which ran before that", number_of(s, "capturedLate"));
        field("captured late", buf);
    }
    field("pins", text_of(s, "pinDir"));
    field("repaired", counts(cJSON_GetObjectItemCaseSensitive(s, "mends"), buf, sizeof(buf)));
    field("kernel failures", counts(cJSON_GetObjectItemCaseSensitive(s, "failures"), buf, sizeof(buf)));
    print_problems(cJSON_GetObjectItemCaseSensitive(s, "problems"));
}

/* The agent sends one item. */
static int ask_status(const struct place *place, const void *data, cJSON **ret)
{
    cJSON *items;
    int r = agent_query(place, "status", NULL, &items);

    (void)data;
    if (r != CTL_OK)
        return r;
    *ret = cJSON_DetachItemFromArray(items, 0);
    cJSON_Delete(items);
    return CTL_OK;
}

static int problems_of(const cJSON *status)
{
    return cJSON_GetArraySize(cJSON_GetObjectItemCaseSensitive(status, "problems"));
}

static void add_node(struct table *t, const char *node, const cJSON *s, const char *complaint)
{
    const cJSON *proxy = cJSON_GetArrayItem(cJSON_GetObjectItemCaseSensitive(s, "proxies"), 0);
    char pods[256] = "", problems[16] = "";
    const char *cells[] = {node,
                           s ? text_of(s, "version") : "no answer",
                           s ? *text_of(proxy, "version") ? text_of(proxy, "version") : text_of(proxy, "kind")
                             : "",
                           text_of(proxy, "state"),
                           pods,
                           problems,
                           complaint};

    (void)counts(cJSON_GetObjectItemCaseSensitive(s, "pods"), pods, sizeof(pods));
    if (s)
        snprintf(problems, sizeof(problems), "%d", problems_of(s));
    table_row(t, cells);
}

/* A line a node, and then what is wrong. */
static void print_nodes(const struct node_answers *g)
{
    static const char *const headers[] = {"NODE", "AGENT", "PROXY", "STATE", "PODS", "PROBLEMS", "NOTE"};
    struct table *t = table_new(headers, array_size(headers));

    for (size_t i = 0; i < g->len; i++)
        add_node(t, gathered_node(g, i), g->answers[i].json, g->answers[i].complaint);
    table_print(t, "", stdout);
    table_free(&t);
    for (size_t i = 0; i < g->len; i++) {
        if (!problems_of(g->answers[i].json))
            continue;
        printf("\nnode %s", gathered_node(g, i));
        print_problems(cJSON_GetObjectItemCaseSensitive(g->answers[i].json, "problems"));
    }
}

int command_status(const struct ctl_options *o, int argc, char **argv)
{
    struct node_answers g;
    int r = gather(o, ask_status, NULL, &g), code = CTL_OK;

    (void)argc;
    (void)argv;
    if (r != CTL_OK)
        return r;
    for (size_t i = 0; i < g.len; i++)
        code = problems_of(g.answers[i].json) ? CTL_PROBLEM : code;
    if (o->json) {
        r = gathered_print(&g, "status");
        return r == CTL_OK ? code : r;
    }
    if (g.len == 1 && g.answers[0].json)
        print_status(g.answers[0].json);
    else
        print_nodes(&g);
    return gathered_end(&g, code);
}

static const char *join(const cJSON *array, char *buf, size_t size)
{
    const cJSON *item;
    size_t len = 0;

    buf[0] = '\0';
    cJSON_ArrayForEach (item, array) {
        if (cJSON_IsString(item) && len < size)
            len += (size_t)snprintf(buf + len, size - len, "%s%s", len ? "," : "", item->valuestring);
    }
    return buf;
}

/* Ending is what matters most then. Or enrolled, and others are not told: see reason pod_forwards. */
static const char *state_of(const cJSON *pod)
{
    const char *state = text_of(pod, "state");

    if (strcmp(state, "outside") != 0 && number_of(pod, "endingAt") > 0)
        return "ending";
    return !strcmp(state, "enrolled") && *text_of(pod, "forwards") ? "enrolled, not announced" : state;
}

/* "2s ago", or what keeps the pod from being whole. */
static const char *verification(const cJSON *pod, char *buf, size_t size)
{
    const cJSON *unrepaired = cJSON_GetObjectItemCaseSensitive(pod, "unmended");
    char ago[32], reasons[256];

    if (!strcmp(text_of(pod, "state"), "outside"))
        return "-";
    if (!cJSON_GetArraySize(unrepaired))
        return age(number_of(pod, "verifiedAt"), buf, size);
    snprintf(buf, size, "no: %s; last %s", join(unrepaired, reasons, sizeof(reasons)),
             age(number_of(pod, "verifiedAt"), ago, sizeof(ago)));
    return buf;
}

/* Which connections of the pod go past the proxy; -o json says of others why not. */
static const char *direct_ways(const cJSON *pod)
{
    const cJSON *direct = cJSON_GetObjectItemCaseSensitive(pod, "direct");
    const char *inbound = text_of(direct, "inbound");
    bool in = !strcmp(inbound, "pass") || !strcmp(inbound, "refuse") || !strcmp(inbound, "bypass");
    bool out = !strcmp(text_of(direct, "outside"), "direct");

    return in && out ? "outside, inbound" : in ? "inbound" : out ? "outside" : "-";
}

/* data: a namespace, or NULL: all. */
static int ask_pods(const struct place *place, const void *data, cJSON **ret)
{
    int r = agent_query(place, "pods", NULL, ret);
    cJSON *p, *next;

    for (p = r == CTL_OK && data ? (*ret)->child : NULL; p; p = next) {
        next = p->next;
        if (strcmp(text_of(p, "namespace"), data) != 0)
            cJSON_Delete(cJSON_DetachItemViaPointer(*ret, p));
    }
    return r;
}

static void add_pod(struct table *t, const struct node_answers *g, const char *node, const cJSON *p)
{
    char addresses[256], verified[320], repaired[256];
    bool enrolled = strcmp(text_of(p, "state"), "outside") != 0;
    const char *cells[] = {
        node,
        text_of(p, "namespace"),
        text_of(p, "name"),
        state_of(p),
        text_of(p, "proxy"),
        direct_ways(p),
        text_of(p, "identity"),
        join(cJSON_GetObjectItemCaseSensitive(p, "ips"), addresses, sizeof(addresses)),
        !enrolled                                                                 ? "-"
        : cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(p, "capturedSinceStart")) ? "yes"
                                                                                  : "no",
        verification(p, verified, sizeof(verified)),
        counts(cJSON_GetObjectItemCaseSensitive(p, "mends"), repaired, sizeof(repaired)),
        text_of(p, "cookie"),
    };

    table_row(t, cells + !g->fleet);
}

int command_pods(const struct ctl_options *o, int argc, char **argv)
{
    static const char *const headers[] = {"NODE",        "NAMESPACE", "POD",      "STATE",
                                          "PROXY",       "DIRECT",    "IDENTITY", "ADDRESSES",
                                          "SINCE START", "VERIFIED",  "REPAIRED", "NETNS COOKIE"};
    struct node_answers g;
    struct table *t;
    const cJSON *p;
    int r = gather(o, ask_pods, o->namespace, &g);

    (void)argc;
    (void)argv;
    if (r != CTL_OK)
        return r;
    if (o->json)
        return gathered_print(&g, "pods");
    t = table_new(headers + !g.fleet, array_size(headers) - !g.fleet);
    for (size_t i = 0; i < g.len; i++) {
        cJSON_ArrayForEach (p, g.answers[i].json)
            add_pod(t, &g, gathered_node(&g, i), p);
    }
    table_print(t, g.fleet ? "No pod is known." : "No pod is known on this node.", stdout);
    table_free(&t);
    return gathered_end(&g, CTL_OK);
}

int command_end(const struct ctl_options *o, int argc, char **argv)
{
    cJSON *items;
    int r;

    if (argc != 1 || !strchr(argv[0], '/')) {
        fprintf(stderr, "brumactl: end NAMESPACE/POD\n");
        return CTL_USAGE;
    }
    r = agent_query(&o->place, "pod-end", argv[0], &items);
    if (r == CTL_OK)
        cJSON_Delete(items);
    return r;
}

static int bad_checks(const cJSON *items)
{
    const cJSON *c;
    int n = 0;

    cJSON_ArrayForEach (c, items)
        n += !cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(c, "ok"));
    return n;
}

static void print_findings(const cJSON *items)
{
    const cJSON *c;

    cJSON_ArrayForEach (c, items) {
        bool ok = cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(c, "ok"));

        printf("%-4s  %s: %s\n", ok ? "ok" : "BAD", text_of(c, "check"), text_of(c, "detail"));
        if (!ok && *text_of(c, "reason"))
            printf("      reason: %s\n", text_of(c, "reason"));
        if (!ok && *text_of(c, "advice"))
            printf("      check: %s\n", text_of(c, "advice"));
    }
}

int print_checks(const struct ctl_options *o, cJSON *items)
{
    int code = bad_checks(items) ? CTL_PROBLEM : CTL_OK;

    if (o->json) {
        (void)print_json(items);
        return code;
    }
    print_findings(items);
    cJSON_Delete(items);
    return code;
}

int command_doctor(const struct ctl_options *o, int argc, char **argv)
{
    struct node_answers g;
    int r = gather(o, ask_agent_op, "doctor", &g), code = CTL_OK;

    (void)argc;
    (void)argv;
    if (r != CTL_OK)
        return r;
    for (size_t i = 0; i < g.len; i++) {
        code = bad_checks(g.answers[i].json) ? CTL_PROBLEM : code;
        if (g.fleet && !o->json && g.answers[i].json)
            printf("%snode %s\n", i ? "\n" : "", gathered_node(&g, i));
        if (!o->json)
            print_findings(g.answers[i].json);
    }
    if (!o->json)
        return gathered_end(&g, code);
    r = gathered_print(&g, "checks");
    return r == CTL_OK ? code : r;
}

int command_explain(const struct ctl_options *o, int argc, char **argv)
{
    enum bruma_reason reason;
    cJSON *items = NULL;
    int r;

    if (argc < 1 || argc > 2) {
        fprintf(
            stderr,
            "brumactl: explain NAMESPACE/POD [IP:PORT | HOSTNAME | NAMESPACE/POD:PORT], or explain REASON\n");
        return CTL_USAGE;
    }
    reason = reason_from_name(argv[0]);
    if (argc == 1 && reason != BRUMA_REASON_COUNT)
        return explain_reason(o, reason);
    if (!strchr(argv[0], '/')) {
        fprintf(stderr,
                "brumactl: \"%s\" is neither NAMESPACE/POD nor a reason; brumactl reasons lists these\n",
                argv[0]);
        return CTL_USAGE;
    }
    r = explain_pod(o, argv[0], argc == 2 ? argv[1] : NULL, &items);
    return r == CTL_OK ? print_checks(o, items) : r;
}
