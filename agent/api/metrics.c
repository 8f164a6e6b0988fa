/* SPDX-License-Identifier: Apache-2.0 */
#define LOG_SCOPE "metrics"
#include "agent/api/metrics.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "agent/api/ctl_page.h"
#include "agent/enroll/forwards.h"
#include "agent/enroll/guard.h"
#include "agent/enroll/source.h"
#include "agent/install/install.h"
#include "agent/steer/direct.h"
#include "agent/steer/exclusions.h"
#include "lib/cleanup.h"
#include "lib/log.h"
#include "lib/log_output.h"
#include "lib/long_ways.h"
#include "lib/metrics_text.h"
#include "lib/reasons.h"
#include "lib/rpc/http_server.h"

#define PAGE_REST 9 /* times what a page took, before it is made anew */

struct metrics {
    struct agent *agent;
    struct http_server *pages, *ready;
    /* The last page and what it took, in microseconds of CLOCK_MONOTONIC. */
    char *page;
    size_t page_len;
    uint64_t page_made, page_took;
};

const char *agent_not_ready(const struct agent *agent)
{
    if (!source_ready(agent))
        return source_not_ready(agent);
    if (agent->cgroup_reason)
        return reason_what(agent->cgroup_reason);
    if (!install_in_place(agent->install))
        return "bruma-cni is not installed in the network that the runtime loads; see brumactl status";
    return NULL;
}

/* ---- the page ---- */

static void of_pod(FILE *f, const char *name, const struct pod *pod, uint64_t value)
{
    fprintf(f, "%s{namespace=\"", name);
    metric_label_text(f, pod->namespace);
    fputs("\",pod=\"", f);
    metric_label_text(f, pod->name);
    fprintf(f, "\"} %" PRIu64 "\n", value);
}

static void put_install(FILE *f, const struct agent *agent)
{
    static const char *const results[INSTALL_RESULT_COUNT] = {
        [INSTALL_SUCCESS] = "SUCCESS",
        [INSTALL_PROGRAM_FAILED] = "COPY_BINARIES_FAILURE",
        [INSTALL_NETWORK_FAILED] = "CREATE_CNI_CONFIG_FAILURE",
    };

    metric_family(f, "istio_cni_installs_total", "counter",
                  "Attempts to write the CNI plugin or its entry, by result.");
    for (int i = 0; i < INSTALL_RESULT_COUNT; i++)
        metric_labelled(f, "istio_cni_installs_total", "result", results[i],
                        install_result(agent->install, (enum install_result)i));
    metric_family(f, "istio_cni_install_ready", "gauge",
                  "1 while the runtime would call the CNI plugin for a new pod.");
    metric_sample(f, "istio_cni_install_ready", install_in_place(agent->install));
}

static void put_agent(FILE *f, const struct agent *agent)
{
    cJSON *proxies = proxies_report(agent->proxies);
    struct source_serving serving;
    char text[256];

    metric_family(f, "istio_cni_plugin_requests_total", "counter",
                  "Answers to the CNI plugin, except STATUS.");
    metric_labelled(f, "istio_cni_plugin_requests_total", "response_code", "200", agent->plugin_successes);
    metric_labelled(f, "istio_cni_plugin_requests_total", "response_code", "500", agent->plugin_errors);
    metric_family(f, "bruma_agent_log_dropped_lines_total", "counter",
                  "Log lines that were dropped because nothing read them.");
    metric_sample(f, "bruma_agent_log_dropped_lines_total", log_output_dropped());
    metric_family(f, "ztunnel_connected", "gauge", "Connected proxies.");
    metric_sample(f, "ztunnel_connected", (uint64_t)cJSON_GetArraySize(proxies));
    cJSON_Delete(proxies);
    if (source_serving(agent, &serving)) {
        metric_family(f, "bruma_control_plane_stalls_total", "counter",
                      "Calls to the built-in control plane that were reset because they made no progress.");
        metric_sample(f, "bruma_control_plane_stalls_total", serving.stalls);
    }
    metric_family(f, "bruma_source_current", "gauge",
                  "1 while what says which pods are in the mesh (API server or mesh file) can be read.");
    metric_sample(f, "bruma_source_current", source_check(agent, text, sizeof(text)) == BRUMA_REASON_NONE);
    metric_family(f, "bruma_agent_ready", "gauge", "1 if the agent can decide, captures, and is installed.");
    metric_sample(f, "bruma_agent_ready", !agent_not_ready(agent));
    metric_family(f, "bruma_proxy_serving", "gauge", "1 while a proxy serves this node's pods.");
    metric_sample(f, "bruma_proxy_serving", proxies_serving(agent->proxies));
}

static void put_source(FILE *f, const struct agent *agent)
{
    static const char *const types[SOURCE_EVENT_COUNT] = {
        [SOURCE_EVENT_ADD] = "add", [SOURCE_EVENT_UPDATE] = "update", [SOURCE_EVENT_DELETE] = "delete"};

    metric_family(f, "nodeagent_reconcile_events_total", "counter",
                  "Events of pods that the API server reported, and that were handled.");
    for (int i = 0; i < SOURCE_EVENT_COUNT; i++)
        metric_labelled(f, "nodeagent_reconcile_events_total", "type", types[i],
                        source_events(agent, (enum source_event)i));
}

static void put_guard(FILE *f, const struct agent *agent)
{
    metric_family(f, "bruma_guard_closed", "gauge", "1 while undecided pods are kept off the network.");
    metric_sample(f, "bruma_guard_closed", guard_is_closed(agent->guard));
    metric_family(f, "bruma_guard_gave_up_total", "counter",
                  "How often the guard opened at its time limit although pods were undecided.");
    metric_sample(f, "bruma_guard_gave_up_total", guard_gave_up(agent->guard));
    metric_family(f, "bruma_pods_captured_late_total", "counter",
                  "Pods of the mesh that were found running uncaptured.");
    metric_sample(f, "bruma_pods_captured_late_total", agent->captured_late);
}

static void put_reasons(FILE *f, const struct agent *agent)
{
    metric_family(f, "bruma_verify_rounds_total", "counter",
                  "Rounds in which the capture of all pods was checked.");
    metric_sample(f, "bruma_verify_rounds_total", agent->verify_rounds);
    metric_family(f, "bruma_mends_total", "counter",
                  "Parts of pods' capture that were found broken and repaired.");
    for (int i = 1; i < BRUMA_REASON_COUNT; i++) {
        if (agent->repairs[i])
            metric_labelled(f, "bruma_mends_total", "reason", reason_name((enum bruma_reason)i),
                            agent->repairs[i]);
    }
    metric_family(
        f, "bruma_steering_failures_total", "counter",
        "Connections that the programs in the kernel refused or reset, since they were first loaded.");
    for (int i = 1; i < BRUMA_REASON_COUNT; i++) {
        struct bruma_failure_count c;

        if (steer_failure_count(agent->steer, (enum bruma_reason)i, &c) == 0 && c.count)
            metric_labelled(f, "bruma_steering_failures_total", "reason", reason_name((enum bruma_reason)i),
                            c.count);
    }
}

static void put_states(FILE *f, const struct agent *agent)
{
    const struct pod *pod;
    int forwarding = 0, ending = 0;

    list_for_each (pod, &agent->pods.list, node) {
        forwarding += pod->enrollment->state == POD_ENROLLED && *forwards_by(pod);
        ending += pod->enrollment->state != POD_OUTSIDE && pod->enrollment->ending_at;
    }
    metric_family(f, "bruma_pods_ending", "gauge",
                  "Pods in the mesh that were told to end: their peers are asked to go elsewhere.");
    metric_sample(f, "bruma_pods_ending", (uint64_t)ending);
    metric_family(f, "bruma_pods_not_announced", "gauge",
                  "Pods that are captured but not announced, because they forward traffic of others.");
    metric_sample(f, "bruma_pods_not_announced", (uint64_t)forwarding);
    metric_family(f, "bruma_pods", "gauge",
                  "Pods of this node by what was verified in their network namespaces.");
    for (int i = 0; i < POD_STATE_COUNT; i++)
        metric_labelled(f, "bruma_pods", "state", pod_state_name((enum pod_state)i),
                        (uint64_t)enroll_count(&agent->pods, (enum pod_state)i));
    metric_family(f, "bruma_pod_captured_since_start", "gauge",
                  "1 if the pod in the mesh was captured before its first process, 0 if later.");
    list_for_each (pod, &agent->pods.list, node) {
        if (pod->enrollment->state == POD_ENROLLED)
            of_pod(f, "bruma_pod_captured_since_start", pod, pod->enrollment->captured_since_start);
    }
    metric_family(f, "bruma_pod_failed", "gauge",
                  "1 if the last step for the pod failed; brumactl explain says why.");
    list_for_each (pod, &agent->pods.list, node) {
        if (pod->enrollment->last_reason)
            of_pod(f, "bruma_pod_failed", pod, 1);
    }
}

static const struct {
    const char *name, *help;
    size_t offset;
} counters[] = {
#define COUNTER(name, what) {"bruma_pod_" #name "_total", what, offsetof(struct bruma_pod_counters, name)},
    BRUMA_POD_COUNTERS(COUNTER)
#undef COUNTER
};

static const struct {
    const char *name, *help;
    size_t offset;
} exclusion_counters[] = {
#define COUNTER(name, what) \
    {"bruma_pod_" #name "_total", what, offsetof(struct bruma_exclusion_counters, name)},
    BRUMA_EXCLUSION_COUNTERS(COUNTER)
#undef COUNTER
};

/* Of pods that exclude something, or have. */
static void put_exclusion_counters(FILE *f, const struct agent *agent)
{
    const struct pod *pod;

    for (size_t i = 0; i < array_size(exclusion_counters); i++) {
        metric_family(f, exclusion_counters[i].name, "counter", exclusion_counters[i].help);
        list_for_each (pod, &agent->pods.list, node) {
            struct bruma_exclusion_counters c;
            __u64 value;

            if (pod->enrollment->state == POD_OUTSIDE ||
                steer_exclusion_counters(agent->steer, pod->cookie, &c) < 0)
                continue;
            memcpy(&value, (const char *)&c + exclusion_counters[i].offset, sizeof(value));
            of_pod(f, exclusion_counters[i].name, pod, value);
        }
    }
}

static const struct {
    const char *name, *help;
    size_t offset;
} direct_counters[] = {
#define COUNTER(name, what) {"bruma_pod_" #name "_total", what, offsetof(struct bruma_direct_counters, name)},
    BRUMA_DIRECT_COUNTERS(COUNTER)
#undef COUNTER
};

static bool direct_of(const struct agent *agent, const struct pod *pod, struct bruma_direct_counters *ret)
{
    return pod->enrollment->state != POD_OUTSIDE &&
           steer_direct_counters(agent->steer, pod->cookie, ret) == 0;
}

/* By reason; those that have happened. */
static void put_long_ways(FILE *f, const struct agent *agent, const char *name, const char *help,
                          size_t offset)
{
    const struct pod *pod;

    metric_family(f, name, "counter", help);
    list_for_each (pod, &agent->pods.list, node) {
        struct bruma_direct_counters c;
        __u64 values[32];

        if (!direct_of(agent, pod, &c))
            continue;
        memcpy(values, (const char *)&c + offset, sizeof(values));
        for (uint32_t why = 0; why < BRUMA_LONG_WAY_COUNT; why++) {
            if (!values[why])
                continue;
            fprintf(f, "%s{namespace=\"", name);
            metric_label_text(f, pod->namespace);
            fputs("\",pod=\"", f);
            metric_label_text(f, pod->name);
            fprintf(f, "\",reason=\"%s\"} %" PRIu64 "\n", long_way_name(why), (uint64_t)values[why]);
        }
    }
}

static void put_direct_counters(FILE *f, const struct agent *agent)
{
    const struct pod *pod;

    for (size_t i = 0; i < array_size(direct_counters); i++) {
        metric_family(f, direct_counters[i].name, "counter", direct_counters[i].help);
        list_for_each (pod, &agent->pods.list, node) {
            struct bruma_direct_counters c;
            __u64 value;

            if (!direct_of(agent, pod, &c))
                continue;
            memcpy(&value, (const char *)&c + direct_counters[i].offset, sizeof(value));
            of_pod(f, direct_counters[i].name, pod, value);
        }
    }
    put_long_ways(f, agent, "bruma_pod_outbound_long_way_total",
                  "Connections of the pod that were captured, by why they did not go directly.",
                  offsetof(struct bruma_direct_counters, outside_long_way));
    put_long_ways(f, agent, "bruma_pod_inbound_long_way_total",
                  "Plaintext connections to the pod that went to the proxy, by why they did not go directly.",
                  offsetof(struct bruma_direct_counters, inbound_long_way));
}

/* Pods outside the mesh have none. */
static void put_counters(FILE *f, const struct agent *agent)
{
    const struct pod *pod;

    for (size_t i = 0; i < array_size(counters); i++) {
        metric_family(f, counters[i].name, "counter", counters[i].help);
        list_for_each (pod, &agent->pods.list, node) {
            struct bruma_pod_counters c;
            __u64 value;

            if (pod->enrollment->state == POD_OUTSIDE ||
                steer_pod_counters(agent->steer, pod->cookie, &c) < 0)
                continue;
            memcpy(&value, (const char *)&c + counters[i].offset, sizeof(value));
            of_pod(f, counters[i].name, pod, value);
        }
    }
}

static void put_turned_away(FILE *f, const struct agent *agent)
{
    const struct metrics *m = agent->metrics;
    struct source_serving serving;

    metric_family(
        f, "bruma_connections_turned_away_total", "counter",
        "Connections to the agent's servers that were closed or refused because there were too many.");
    if (m && m->pages)
        metric_labelled(f, "bruma_connections_turned_away_total", "server", "metrics",
                        http_server_turned_away(m->pages));
    if (m && m->ready)
        metric_labelled(f, "bruma_connections_turned_away_total", "server", "readiness",
                        http_server_turned_away(m->ready));
    if (source_serving(agent, &serving))
        metric_labelled(f, "bruma_connections_turned_away_total", "server", "control-plane",
                        serving.turned_away);
}

char *metrics_page(const struct agent *agent, size_t *ret_len)
{
    char *text = NULL;
    FILE *f = open_memstream(&text, ret_len);

    if (!f)
        return NULL;
    put_install(f, agent);
    put_agent(f, agent);
    put_source(f, agent);
    put_guard(f, agent);
    put_states(f, agent);
    put_counters(f, agent);
    put_exclusion_counters(f, agent);
    put_direct_counters(f, agent);
    put_reasons(f, agent);
    put_turned_away(f, agent);
    if (fclose(f) == 0)
        return text;
    free(text);
    return NULL;
}

/* ---- servers ---- */

static bool may_get(struct http_request *request)
{
    const struct http_answer answer = {.status = 405, .allow = "GET, HEAD"};

    if (http_method_is(request, "GET") || http_method_is(request, "HEAD"))
        return true;
    http_respond(request, &answer, NULL, 0);
    return false;
}

static uint64_t microseconds(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000;
}

/* The page costs the agent's only thread time, and whoever reaches the port may ask: for a tenth of that time
 * at the most it is made anew, and in between it is the last one. */
static char *page_of_now(struct metrics *m, size_t *ret_len)
{
    uint64_t now = microseconds();
    char *copy;

    if (!m->page || now - m->page_made >= PAGE_REST * m->page_took) {
        free(m->page);
        m->page = metrics_page(m->agent, &m->page_len);
        m->page_made = microseconds();
        m->page_took = m->page_made - now;
    }
    copy = m->page ? malloc(m->page_len) : NULL;
    if (!copy)
        return NULL;
    *ret_len = m->page_len;
    return memcpy(copy, m->page, m->page_len);
}

static void on_page(void *data, struct http_request *request)
{
    const struct http_answer answer = {
        .status = 200, .type = "text/plain; version=0.0.4; charset=utf-8", .compress = true};
    struct metrics *m = data;
    size_t len = 0;
    char *text;

    if (!may_get(request))
        return;
    if (!http_path_is(request, "/metrics")) {
        http_respond_text(request, 404, "there is /metrics\n");
        return;
    }
    text = page_of_now(m, &len);
    if (text)
        http_respond(request, &answer, text, len);
    else
        http_respond_text(request, 503, "out of memory\n");
}

static void on_ready(void *data, struct http_request *request)
{
    struct metrics *m = data;
    const char *why = agent_not_ready(m->agent);
    char text[300];

    if (!may_get(request) || ctl_page_serve(m->agent, request))
        return;
    snprintf(text, sizeof(text), "%.290s\n", why ? why : "ready");
    if (http_path_is(request, "/readyz"))
        http_respond_text(request, why ? 503 : 200, text);
    else if (http_path_is(request, "/healthz"))
        http_respond_text(request, 200, "alive\n");
    else
        http_respond_text(request, 404, "there are /readyz and /healthz\n");
}

static int open_metrics(struct metrics *m, uint16_t port, const struct http_limits *limits)
{
    int r = http_server_new(m->agent->loop, "metrics", on_page, m, limits, &m->pages);

    if (r == 0)
        r = http_server_listen_any(m->pages, port, true, NULL);
    return r < 0 ? log_error_errno(r, "metrics cannot be served\tport=%u", port) : 0;
}

static int open_ready(struct metrics *m, uint16_t port, const struct http_limits *limits)
{
    struct endpoint at = {.port = port};
    int r = http_server_new(m->agent->loop, "readiness", on_ready, m, limits, &m->ready);

    if (r == 0)
        r = addr_parse("127.0.0.1", &at.addr);
    if (r == 0)
        r = http_server_listen(m->ready, &at, false, NULL);
    return r < 0 ? log_error_errno(r, "readiness cannot be served\tport=%u", port) : 0;
}

int metrics_open(struct agent *agent, struct metrics **ret)
{
    const struct agent_settings *c = agent->settings;
    const struct http_limits limits = {(unsigned)c->server_connections,
                                       (unsigned)c->server_connections_per_source};
    struct metrics *m;
    int r = 0;

    if (!c->metrics_port && !c->ready_port)
        return 0;
    m = calloc(1, sizeof(*m));
    if (!m)
        return -ENOMEM;
    m->agent = agent;
    if (c->metrics_port)
        r = open_metrics(m, (uint16_t)c->metrics_port, &limits);
    if (r == 0 && c->ready_port)
        r = open_ready(m, (uint16_t)c->ready_port, &limits);
    if (r < 0)
        metrics_close(&m);
    else
        *ret = m;
    return r;
}

void metrics_close(struct metrics **metrics)
{
    if (!*metrics)
        return;
    http_server_close(&(*metrics)->pages);
    http_server_close(&(*metrics)->ready);
    free((*metrics)->page);
    free(*metrics);
    *metrics = NULL;
}
