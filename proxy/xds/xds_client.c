/* SPDX-License-Identifier: Apache-2.0 */
#define LOG_SCOPE "xds"
#include "proxy/xds/xds_client.h"

#include <errno.h>
#include <malloc.h>
#include <stdlib.h>
#include <string.h>

#include "lib/log.h"
#include "lib/metrics_text.h"
#include "lib/reasons.h"
#include "proxy/identity/credentials.h"
#include "proxy/wire/wire.h"
#include "proxy/xds/xds_on_demand.h"
#include "proxy/xds/xds_request.h"
#include "proxy/xds/xds_response.h"
#include "proxy/xds/xds_sweep.h"
#include "proxy/xds/xds_versions.h"

#define METHOD        "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources"
#define MESSAGE_MAX   (200 * 1024 * 1024)
#define BACKOFF_MIN   10
#define BACKOFF_MAX   15000
#define TRIM_ABOVE    (8 * 1024 * 1024) /* a response of this size leaves holes in the heap */
#define NACK_TEXT_MAX 4096
#define BOUND_MIN     65536 /* a server that refuses less than this is told of nothing */
#define EXHAUSTED_MAX                                                                     \
    3 /* refusals in a row, after which it is the request that is believed to be too long \
       */

/* Fields of DeltaDiscoveryResponse; the others are in xds_response.c. */
enum { RESPONSE_TYPE = 4, RESPONSE_NONCE = 5 };

enum termination { CONNECTION_ERROR, ERROR, RECONNECT, COMPLETE, TERMINATIONS };

static const char *const termination_names[TERMINATIONS] = {"ConnectionError", "Error", "Reconnect",
                                                            "Complete"};

struct xds_client {
    struct loop *loop;
    struct xds_config config;
    struct server_address address;
    struct grpc_channel *channel;
    struct grpc_call *call;
    struct loop_timer retry;
    uint64_t backoff;
    bool connected, ready;
    struct xds_versions *versions[STATE_TYPES];
    bool acked[STATE_TYPES];    /* ever */
    bool answered[STATE_TYPES]; /* on this stream */
    struct xds_sweep sweep;
    struct xds_on_demand on_demand;
    size_t bound, longest; /* bytes of a first request: at the most; of this stream's */
    unsigned exhausted;
    uint64_t bounded, stalls;
    uint64_t terminations[TERMINATIONS], messages[STATE_TYPES], message_bytes[STATE_TYPES];
};

static void connect_now(struct xds_client *c);

static void on_retry(struct loop_timer *timer)
{
    connect_now(container_of(timer, struct xds_client, retry));
}

static void retry_after(struct xds_client *c, uint64_t milliseconds)
{
    c->connected = false;
    loop_timer_set(c->loop, &c->retry, milliseconds);
}

static void back_off(struct xds_client *c)
{
    retry_after(c, c->backoff);
    c->backoff = c->backoff * 2 < BACKOFF_MAX ? c->backoff * 2 : BACKOFF_MAX;
}

static void hang_up(struct xds_client *c)
{
    xds_sweep_end(&c->sweep);
    xds_on_demand_hang_up(&c->on_demand);
    grpc_call_cancel(&c->call);
    grpc_channel_close(&c->channel);
}

static void on_demand_more(void *data, struct wire_writer *writer, size_t bound)
{
    xds_on_demand_first(data, writer, bound);
}

static int subscribe(struct xds_client *c, enum state_type type)
{
    struct xds_versions *versions = c->versions[type];
    size_t len, unsent;
    int r = xds_request_first(c->call, &c->config, type, versions, c->bound,
                              type == STATE_ADDRESS ? on_demand_more : NULL, &c->on_demand, &len);

    unsent = xds_versions_unsent(versions);
    if (unsent) {
        c->bounded++;
        log_info("the first request does not list every resource that the proxy has\treason=%s type=%s "
                 "bytes=%zu held=%zu "
                 "untold=%zu",
                 reason_name(BRUMA_REASON_XDS_REQUEST_BOUNDED), xds_type_urls[type], len,
                 xds_versions_count(versions), unsent);
    }
    if (len > c->longest)
        c->longest = len;
    return r;
}

/* Whether the control plane has answered all that this stream asked first. */
static bool all_answered(const struct xds_client *c)
{
    for (int i = 0; i < STATE_TYPES; i++) {
        if (!c->answered[i])
            return false;
    }
    return true;
}

static void check_ready(struct xds_client *c)
{
    for (int i = 0; i < STATE_TYPES; i++) {
        if (!c->acked[i])
            return;
    }
    if (!c->ready) {
        c->ready = true;
        c->config.ready(c->config.data);
    }
}

static void on_message(void *data, const uint8_t *message, size_t len)
{
    struct xds_client *c = data;
    struct wire_field url = {}, nonce = {}, f;
    struct wire_reader r = wire_reader(message, len);
    char nack[NACK_TEXT_MAX] = "";
    struct xds_response response;
    enum state_type type;
    int more;

    while ((more = wire_next(&r, &f)) > 0) {
        if (f.type == WIRE_BYTES && f.number == RESPONSE_TYPE)
            url = f;
        else if (f.type == WIRE_BYTES && f.number == RESPONSE_NONCE)
            nonce = f;
    }
    if (more < 0 || !url.bytes) {
        log_error("a response of the control plane is malformed; reconnecting\tbytes=%zu", len);
        c->terminations[ERROR]++;
        hang_up(c);
        back_off(c);
        return;
    }
    c->connected = true;
    c->backoff = BACKOFF_MIN;
    type = xds_response_type(&url);
    c->exhausted = 0;
    if (type < STATE_TYPES) {
        size_t unsent = xds_versions_unsent(c->versions[type]);

        c->messages[type]++;
        response = (struct xds_response){type, c->config.state, c->versions[type], &c->message_bytes[type]};
        xds_response_take(&response, message, len, nack, sizeof(nack));
        xds_sweep_answered(&c->sweep, type, unsent);
        if (type == STATE_ADDRESS)
            xds_on_demand_answered(&c->on_demand, message, len);
        c->answered[type] = true;
        if (all_answered(c))
            grpc_call_expect(c->call, false);
    }
    xds_request_acknowledge(c->call, &url, &nonce, nack);
    if (len > TRIM_ABOVE)
        malloc_trim(0);
    if (type < STATE_TYPES) {
        /* A first response with something unusable in it must not keep the node from serving all the rest. */
        c->acked[type] = true;
        check_ready(c);
    }
}

/* ---- the stream ---- */

/* What says that the server only moved, not that it is unwell. */
static bool benign(enum grpc_status status, const char *text)
{
    return status == GRPC_UNKNOWN || status == GRPC_CANCELLED || status == GRPC_DEADLINE_EXCEEDED ||
           (status == GRPC_UNAVAILABLE &&
            (strstr(text, "transport is closing") || strstr(text, "received prior goaway")));
}

/* Servers say of a request that it is too long with one status and each in its own words, and the same status
 * may mean that they have too much to do. */
static void check_bound(struct xds_client *c, enum grpc_status status, const char *text)
{
    if (status != GRPC_RESOURCE_EXHAUSTED || all_answered(c) || c->longest < BOUND_MIN)
        return;
    if (++c->exhausted < EXHAUSTED_MAX && !strstr(text, "arger than") && !strstr(text, "too long") &&
        !strstr(text, "exceeds"))
        return;
    c->exhausted = 0;
    c->bound = c->longest / 2 < BOUND_MIN ? 0 : c->longest / 2;
    log_warn(
        "the control plane refuses a first request of %zu bytes; the next one has less\treason=%s bound=%zu "
        "error=\"%s\"",
        c->longest, reason_name(BRUMA_REASON_XDS_REQUEST_BOUNDED), c->bound, text);
}

static void on_end(void *data, enum grpc_status status, const char *text)
{
    struct xds_client *c = data;
    bool had_stream = c->connected;

    c->call = NULL;
    xds_sweep_end(&c->sweep);
    xds_on_demand_hang_up(&c->on_demand);
    check_bound(c, status, text);
    if (status == GRPC_ABORTED && !strcmp(text, GRPC_STALLED)) {
        log_warn("the control plane makes no progress; opening a new stream\treason=%s milliseconds=%u",
                 reason_name(BRUMA_REASON_CALL_STALLED), c->config.stall_milliseconds);
        c->stalls++;
    }
    if (had_stream && status == GRPC_OK) {
        log_info("the control plane ended the stream");
        c->terminations[COMPLETE]++;
        c->backoff = BACKOFF_MIN;
        retry_after(c, BACKOFF_MIN);
    } else if (had_stream && benign(status, text)) {
        log_info("the control plane's stream ended\tstatus=%d error=\"%s\"", status, text);
        c->terminations[RECONNECT]++;
        c->backoff = BACKOFF_MIN;
        retry_after(c, BACKOFF_MIN);
    } else {
        log_warn("the control plane is away; the last known state stays in use\treason=\"%s\" "
                 "status=%d error=\"%s\" retry=%llums",
                 reason_name(BRUMA_REASON_XDS_UNREACHABLE), status, text, (unsigned long long)c->backoff);
        c->terminations[had_stream ? ERROR : CONNECTION_ERROR]++;
        back_off(c);
    }
}

static void on_down(void *data, const char *why)
{
    struct xds_client *c = data;

    (void)why; /* the call's end has said it */
    xds_sweep_end(&c->sweep);
    xds_on_demand_hang_up(&c->on_demand);
    grpc_channel_close(&c->channel);
    if (!loop_timer_armed(&c->retry))
        back_off(c);
}

static int open_stream(struct xds_client *c)
{
    static const struct grpc_call_events events = {.message = on_message, .end = on_end};
    struct credential_headers headers;
    int r = credential_headers_load(c->config.auth_token, c->config.token_file, c->config.cluster_id,
                                    "XDS_HEADER_", &headers);

    if (r < 0)
        return log_warn_errno(r, "the token cannot be read");
    r = grpc_call_open(c->channel, METHOD, headers.headers, headers.len, 0, &events, c, &c->call);
    credential_headers_free(&headers);
    if (r < 0)
        return r;
    memset(c->answered, 0, sizeof(c->answered));
    c->longest = 0;
    xds_sweep_begin(&c->sweep, c->channel, c->call);
    grpc_call_expect(c->call, true);
    for (int i = 0; i < STATE_TYPES && r == 0; i++)
        r = subscribe(c, (enum state_type)i);
    if (r == 0)
        xds_on_demand_begin(&c->on_demand, c->call);
    return r;
}

static void connect_now(struct xds_client *c)
{
    struct grpc_channel_config config = {
        .host = c->address.host,
        .port = c->address.port,
        .alternate_host = c->config.alternate_host,
        .plaintext = c->address.plaintext,
        .max_message = MESSAGE_MAX,
        .stall_milliseconds = c->config.stall_milliseconds,
    };
    char *roots = NULL;
    int r;

    hang_up(c);
    r = config.plaintext ? 0 : roots_load(c->config.roots, &roots);
    if (r < 0)
        log_warn_errno(r, "roots %.200s", c->config.roots);
    config.roots_pem = roots;
    if (r == 0) {
        r = grpc_channel_open(c->loop, &config, on_down, c, &c->channel);
        if (r < 0)
            log_warn_errno(r, "cannot reach the control plane %s", c->config.address);
    }
    free(roots);
    if (r == 0)
        r = open_stream(c);
    if (r < 0) {
        c->terminations[CONNECTION_ERROR]++;
        hang_up(c);
        back_off(c);
    }
}

int xds_client_new(struct loop *loop, const struct xds_config *config, struct xds_client **ret)
{
    struct xds_client *c = calloc(1, sizeof(*c));
    int r = c ? server_address_parse(config->address, &c->address) : -ENOMEM;

    for (int i = 0; i < STATE_TYPES && r == 0; i++)
        r = xds_versions_new(&c->versions[i]);
    if (r < 0) {
        xds_client_free(&c);
        return r;
    }
    c->loop = loop;
    c->config = *config;
    c->backoff = BACKOFF_MIN;
    c->bound = config->request_max;
    xds_sweep_init(&c->sweep, loop, config->state, c->versions, config->settle_milliseconds);
    xds_on_demand_init(&c->on_demand, config->on_demand, loop, config->state, c->versions[STATE_ADDRESS],
                       config->node_name, config->idle);
    loop_timer_init(&c->retry, on_retry);
    loop_timer_set(loop, &c->retry, 0);
    *ret = c;
    return 0;
}

void xds_client_free(struct xds_client **ptr)
{
    struct xds_client *c = *ptr;

    if (!c)
        return;
    if (c->retry.node.next)
        loop_timer_cancel(&c->retry);
    if (c->sweep.loop) {
        hang_up(c);
        xds_on_demand_end(&c->on_demand);
    }
    for (int i = 0; i < STATE_TYPES; i++)
        xds_versions_free(&c->versions[i]);
    free(c);
    *ptr = NULL;
}

bool xds_client_connected(const struct xds_client *c)
{
    return c->connected;
}

bool xds_client_ready(const struct xds_client *c)
{
    return c->ready;
}

void xds_client_write_metrics(const struct xds_client *c, FILE *out)
{
    bool any = false;

    metric_gauge(out, "bruma_xds_connected", "1 while there is a stream of the control plane.", c->connected);
    for (int i = 0; i < TERMINATIONS; i++) {
        if (!c->terminations[i])
            continue;
        if (!any)
            metric_family(out, "istio_xds_connection_terminations", "counter",
                          "Terminations of the connection to the control plane.");
        any = true;
        metric_labelled(out, "istio_xds_connection_terminations_total", "reason", termination_names[i],
                        c->terminations[i]);
    }
    metric_family(out, "bruma_xds_stalls", "counter",
                  "Streams of the control plane that were closed because they made no progress.");
    metric_sample(out, "bruma_xds_stalls_total", c->stalls);
    metric_family(out, "bruma_xds_requests_bounded", "counter",
                  "First requests that did not list every resource that the proxy has.");
    metric_sample(out, "bruma_xds_requests_bounded_total", c->bounded);
    metric_family(out, "bruma_xds_let_go", "counter",
                  "Resources that were removed because no answer mentioned them after such a request.");
    metric_sample(out, "bruma_xds_let_go_total", c->sweep.let_go);
    if (c->config.on_demand) {
        on_demand_write_metrics(c->config.on_demand, out);
        metric_counter(out, "bruma_xds_left", "Resources that were left because nobody has used them lately.",
                       c->on_demand.left);
    }
    if (c->messages[0] + c->messages[1] == 0)
        return;
    metric_family(out, "istio_xds_message", "counter", "Responses of the control plane.");
    for (int i = 0; i < STATE_TYPES; i++)
        metric_labelled(out, "istio_xds_message_total", "url", xds_type_urls[i], c->messages[i]);
    metric_family(out, "istio_xds_message_bytes", "counter", "Bytes of resources in these responses.");
    for (int i = 0; i < STATE_TYPES; i++)
        metric_labelled(out, "istio_xds_message_bytes_total", "url", xds_type_urls[i], c->message_bytes[i]);
}
