/* SPDX-License-Identifier: Apache-2.0 */
#define LOG_SCOPE "identity"
#include "proxy/identity/spire_agent.h"

#include <string.h>

#include "lib/log.h"
#include "lib/metrics_text.h"
#include "lib/reasons.h"
#include "proxy/identity/spire_messages.h"

#define DELEGATED       "/spire.api.agent.delegatedidentity.v1.DelegatedIdentity/"
#define SVIDS_METHOD    DELEGATED "SubscribeToX509SVIDs"
#define BUNDLES_METHOD  DELEGATED "SubscribeToX509Bundles"
#define WORKLOAD_METHOD "/SpiffeWorkloadAPI/FetchX509SVID"

#define MESSAGE_MAX       (4 * 1024 * 1024) /* bytes */
#define PING_MILLISECONDS 330000            /* more than the five minutes that the agent asks for */
#define BACKOFF_MIN       1000
#define BACKOFF_MAX       30000

/* ---- the connection ---- */

static void on_down(void *data, const char *why)
{
    struct spire_agent *a = data;

    (void)why; /* its calls have ended with that text */
    a->up = false;
    grpc_channel_close(&a->channel);
}

static int open_channel(struct spire_agent *a)
{
    const struct grpc_channel_config config = {
        .unix_path = a->socket,
        .secret = true,
        .max_message = MESSAGE_MAX,
        .ping_milliseconds = PING_MILLISECONDS,
    };

    return a->channel ? 0 : grpc_channel_open(a->loop, &config, on_down, a, &a->channel);
}

static int open_call(struct spire_agent *a, const char *method, const struct wire_writer *request,
                     const struct grpc_call_events *events, void *data, struct grpc_call **ret)
{
    static const struct grpc_header of_workload_api = {"workload.spiffe.io", "true"};
    int r = open_channel(a);

    if (r == 0)
        r = grpc_call_open(a->channel, method, &of_workload_api, a->workload_api, 0, events, data, ret);
    if (r < 0)
        return r;
    r = grpc_call_send(*ret, request->data, request->len, true);
    if (r < 0)
        grpc_call_cancel(ret);
    return r;
}

void spire_agent_is_up(struct spire_agent *a)
{
    if (a->up)
        return;
    a->up = true;
    a->backoff = BACKOFF_MIN;
    log_info("SPIRE's agent answers\tsocket=\"%s\"", a->socket);
    a->answers(a->data);
}

enum bruma_reason spire_agent_ended(enum grpc_status status, const char *text, char *error, size_t size)
{
    bool unreachable = status == GRPC_UNAVAILABLE || status == GRPC_CANCELLED || status == GRPC_OK ||
                       status == GRPC_UNKNOWN || status == GRPC_ABORTED;

    snprintf(error, size, status == GRPC_PERMISSION_DENIED ? "permission denied: %s" : "%s",
             status == GRPC_OK ? "the agent has ended the stream" : text);
    if (status == GRPC_RESOURCE_EXHAUSTED)
        return BRUMA_REASON_SVID_INVALID;
    return unreachable ? BRUMA_REASON_SPIRE_UNREACHABLE : BRUMA_REASON_SPIRE_REFUSED;
}

/* ---- bundles ---- */

static void on_bundles(void *data, const uint8_t *message, size_t len)
{
    struct spire_agent *a = data;
    char error[160] = "out of memory";
    int r = spire_trust_begin(&a->trust);

    if (r == 0)
        r = spire_bundles_decode(message, len, spire_trust_put, &a->trust, error, sizeof(error));
    if (r < 0) {
        a->trust.bad++;
        log_error("SPIRE's bundles cannot be used; the last ones stay in force\treason=\"%s\" error=\"%s\"",
                  reason_name(BRUMA_REASON_BUNDLE_INVALID), error);
    }
    spire_agent_is_up(a);
    if (!spire_trust_end(&a->trust, r == 0))
        return;
    log_info("SPIRE's bundles received\ttrust_domains=%zu", a->trust.bundles->len);
    a->trust_changed(a->data);
}

static void retry_bundles(struct spire_agent *a, enum bruma_reason reason, const char *error)
{
    log_warn("no bundles from SPIRE's agent; the last ones stay in force\tsocket=\"%s\" reason=\"%s\" "
             "error=\"%s\" retry=%llums",
             a->socket, reason_name(reason), error, (unsigned long long)a->backoff);
    loop_timer_set(a->loop, &a->bundles_retry, a->backoff);
    a->backoff = a->backoff * 2 < BACKOFF_MAX ? a->backoff * 2 : BACKOFF_MAX;
}

static void on_bundles_end(void *data, enum grpc_status status, const char *text)
{
    struct spire_agent *a = data;
    char error[200];
    enum bruma_reason reason = spire_agent_ended(status, text, error, sizeof(error));

    a->bundles_call = NULL;
    retry_bundles(a, reason == BRUMA_REASON_SVID_INVALID ? BRUMA_REASON_BUNDLE_INVALID : reason, error);
}

static const struct grpc_call_events bundles_events = {.message = on_bundles, .end = on_bundles_end};

static void follow_bundles(struct spire_agent *a)
{
    char why[64];
    int r;

    if (a->workload_api || a->bundles_call || loop_timer_armed(&a->bundles_retry))
        return;
    r = open_call(a, BUNDLES_METHOD, &(struct wire_writer){}, &bundles_events, a, &a->bundles_call);
    if (r < 0)
        retry_bundles(a, BRUMA_REASON_SPIRE_UNREACHABLE, strerror_r(-r, why, sizeof(why)));
}

static void on_bundles_retry(struct loop_timer *timer)
{
    follow_bundles(container_of(timer, struct spire_agent, bundles_retry));
}

/* ---- what it is for ---- */

void spire_agent_init(struct spire_agent *a, struct loop *loop, const char *socket, bool workload_api)
{
    *a = (struct spire_agent){
        .loop = loop, .socket = socket, .workload_api = workload_api, .backoff = BACKOFF_MIN};
    loop_timer_init(&a->bundles_retry, on_bundles_retry);
}

void spire_agent_leave(struct spire_agent *a)
{
    loop_timer_cancel(&a->bundles_retry);
    grpc_call_cancel(&a->bundles_call);
    grpc_channel_close(&a->channel);
    a->backoff = BACKOFF_MIN;
    a->up = false;
}

void spire_agent_clear(struct spire_agent *a)
{
    spire_agent_leave(a);
    spire_trust_clear(&a->trust);
}

int spire_agent_subscribe(struct spire_agent *a, const struct wire_writer *request,
                          const struct grpc_call_events *events, void *data, struct grpc_call **ret)
{
    int r = open_call(a, a->workload_api ? WORKLOAD_METHOD : SVIDS_METHOD, request, events, data, ret);

    if (r == 0)
        follow_bundles(a);
    return r;
}

void spire_agent_write_metrics(const struct spire_agent *a, FILE *out)
{
    metric_gauge(out, "bruma_spire_connected", "1: SPIRE's agent answers on its socket.", a->up);
    metric_gauge(out, "bruma_spire_bundles", "Trust domains whose bundle SPIRE's agent has sent.",
                 a->trust.bundles ? a->trust.bundles->len : 0);
    metric_gauge(out, "bruma_spire_bundles_unusable",
                 "Bundles in the last message of SPIRE's agent that could not be used.", a->trust.bad);
}
