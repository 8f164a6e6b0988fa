/* SPDX-License-Identifier: Apache-2.0 */
/* What the agent knows: status, pods, explain, doctor; and what it is told: end. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "ctl/commands.h"
#include "ctl/source.h"
#include "ctl/table.h"
#include "lib/cleanup.h"
#include "lib/reasons.h"

static int print_json(cJSON *json)
{
    char *text = cJSON_Print(json);

    puts(text ? text : "null");
    free(text);
    cJSON_Delete(json);
    return CTL_OK;
}

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

int command_status(const struct ctl_options *o, int argc, char **argv)
{
    cJSON *items, *status;
    int r = agent_query(o->run_dir, "status", NULL, &items);

    (void)argc;
    (void)argv;
    if (r != CTL_OK)
        return r;
    status = cJSON_DetachItemFromArray(items, 0);
    cJSON_Delete(items);
    r = cJSON_GetArraySize(cJSON_GetObjectItemCaseSensitive(status, "problems")) ? CTL_PROBLEM : CTL_OK;
    if (o->json) {
        print_json(status);
        return r;
    }
    print_status(status);
    cJSON_Delete(status);
    return r;
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

int command_pods(const struct ctl_options *o, int argc, char **argv)
{
    static const char *const headers[] = {"NAMESPACE", "POD",      "STATE",       "PROXY",
                                          "DIRECT",    "IDENTITY", "ADDRESSES",   "SINCE START",
                                          "VERIFIED",  "REPAIRED", "NETNS COOKIE"};
    struct table *t;
    cJSON *items;
    const cJSON *p;
    int r = agent_query(o->run_dir, "pods", NULL, &items);

    (void)argc;
    (void)argv;
    if (r != CTL_OK)
        return r;
    if (o->json)
        return print_json(items);
    t = table_new(headers, array_size(headers));
    cJSON_ArrayForEach (p, items) {
        char addresses[256], verified[320], repaired[256];
        bool enrolled = strcmp(text_of(p, "state"), "outside") != 0;
        const char *cells[] = {
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

        table_row(t, cells);
    }
    table_print(t, "No pod is known on this node.", stdout);
    table_free(&t);
    cJSON_Delete(items);
    return CTL_OK;
}

int command_end(const struct ctl_options *o, int argc, char **argv)
{
    cJSON *items;
    int r;

    if (argc != 1 || !strchr(argv[0], '/')) {
        fprintf(stderr, "brumactl: end NAMESPACE/POD\n");
        return CTL_USAGE;
    }
    r = agent_query(o->run_dir, "pod-end", argv[0], &items);
    if (r == CTL_OK)
        cJSON_Delete(items);
    return r;
}

int print_checks(const struct ctl_options *o, cJSON *items)
{
    int problems = 0;
    const cJSON *c;

    cJSON_ArrayForEach (c, items)
        problems += !cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(c, "ok"));
    if (o->json) {
        print_json(items);
        return problems ? CTL_PROBLEM : CTL_OK;
    }
    cJSON_ArrayForEach (c, items) {
        bool ok = cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(c, "ok"));

        printf("%-4s  %s: %s\n", ok ? "ok" : "BAD", text_of(c, "check"), text_of(c, "detail"));
        if (!ok && *text_of(c, "reason"))
            printf("      reason: %s\n", text_of(c, "reason"));
        if (!ok && *text_of(c, "advice"))
            printf("      check: %s\n", text_of(c, "advice"));
    }
    cJSON_Delete(items);
    return problems ? CTL_PROBLEM : CTL_OK;
}

int command_doctor(const struct ctl_options *o, int argc, char **argv)
{
    cJSON *items;
    int r = agent_query(o->run_dir, "doctor", NULL, &items);

    (void)argc;
    (void)argv;
    return r == CTL_OK ? print_checks(o, items) : r;
}

static int explain_reason(const struct ctl_options *o, enum bruma_reason reason)
{
    if (o->json) {
        cJSON *j = cJSON_CreateObject();

        cJSON_AddStringToObject(j, "reason", reason_name(reason));
        cJSON_AddStringToObject(j, "what", reason_what(reason));
        cJSON_AddStringToObject(j, "check", reason_check(reason));
        cJSON_AddStringToObject(j, "responseFlag", reason_response_flag(reason));
        return print_json(j);
    }
    printf("%s: %s\n", reason_name(reason), reason_what(reason));
    if (*reason_check(reason))
        printf("check: %s\n", reason_check(reason));
    if (strcmp(reason_response_flag(reason), "-") != 0)
        printf("response_flags in the metrics: %s\n", reason_response_flag(reason));
    return CTL_OK;
}

int command_explain(const struct ctl_options *o, int argc, char **argv)
{
    enum bruma_reason reason;
    cJSON *items;
    int r;

    if (argc < 1 || argc > 2) {
        fprintf(stderr, "brumactl: explain NAMESPACE/POD [IP:PORT | HOSTNAME], or explain REASON\n");
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
    if (argc == 2)
        return explain_connection(o, argv[0], argv[1]);
    r = agent_query(o->run_dir, "explain", argv[0], &items);
    return r == CTL_OK ? print_checks(o, items) : r;
}

/* A '|' would end the table's cell. */
static void print_cell(const char *text)
{
    for (; *text; text++)
        printf(*text == '|' ? "\\|" : "%c", *text);
}

static void print_reasons_markdown(void)
{
    puts("# Reasons\n\nEvery failure has a name, which is the same in the kernel's counters (`bpftool map "
         "dump` of `failures`), in\n"
         "logs (`reason=\"...\"`), in metrics (`bruma_failures_total{reason=\"...\"}`) and in `brumactl "
         "explain`. This page is generated by\n"
         "`brumactl reasons --markdown`.\n");
    puts("| reason | response flag | what happened | what to check |\n|---|---|---|---|");
    for (int i = 1; i < BRUMA_REASON_COUNT; i++) {
        enum bruma_reason r = (enum bruma_reason)i;

        printf("| `%s` | `%s` | ", reason_name(r), reason_response_flag(r));
        print_cell(reason_what(r));
        printf(" | ");
        print_cell(reason_check(r));
        puts(" |");
    }
}

int command_reasons(const struct ctl_options *o, int argc, char **argv)
{
    static const char *const headers[] = {"REASON", "FLAG", "WHAT HAPPENED"};
    struct table *t;

    if (argc == 1 && !strcmp(argv[0], "--markdown")) {
        print_reasons_markdown();
        return CTL_OK;
    }
    if (argc) {
        fprintf(stderr, "brumactl: reasons takes only --markdown\n");
        return CTL_USAGE;
    }
    if (o->json) {
        cJSON *array = cJSON_CreateArray();

        for (int i = 1; i < BRUMA_REASON_COUNT; i++) {
            cJSON *j = cJSON_CreateObject();

            cJSON_AddStringToObject(j, "reason", reason_name((enum bruma_reason)i));
            cJSON_AddStringToObject(j, "responseFlag", reason_response_flag((enum bruma_reason)i));
            cJSON_AddStringToObject(j, "what", reason_what((enum bruma_reason)i));
            cJSON_AddStringToObject(j, "check", reason_check((enum bruma_reason)i));
            cJSON_AddItemToArray(array, j);
        }
        return print_json(array);
    }
    t = table_new(headers, array_size(headers));
    for (int i = 1; i < BRUMA_REASON_COUNT; i++) {
        enum bruma_reason r = (enum bruma_reason)i;

        table_row(t, (const char *const[]){reason_name(r), reason_response_flag(r), reason_what(r)});
    }
    table_print(t, "", stdout);
    table_free(&t);
    return CTL_OK;
}
