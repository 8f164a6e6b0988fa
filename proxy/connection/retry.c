/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/connection/retry.h"

#include <stdlib.h>

#include "proxy/route/endpoints.h"

#define PATIENCE_SHARE 4 /* of connect_timeout */

struct tried_endpoints {
    struct endpoint all[PROXY_RETRIES_MAX];
    unsigned len;
    uint64_t until; /* loop_now(): no further one begins */
};

/* What is a matter of the one endpoint, and was over before it could serve. Certificates that are not what
 * they have to be are none: they are said, not gone around. */
static bool is_of_endpoint(enum bruma_reason reason)
{
    switch (reason) {
    case BRUMA_REASON_CONNECT_REFUSED:
    case BRUMA_REASON_CONNECT_TIMEOUT:
    case BRUMA_REASON_CONNECT_UNREACHABLE:
    case BRUMA_REASON_CONNECT_FAILED:
    case BRUMA_REASON_CONNECT_REJECTED: /* by 503 */
    case BRUMA_REASON_GATEWAY_UNAVAILABLE:
    case BRUMA_REASON_HBONE_BLOCKED:
    case BRUMA_REASON_HTTP2_ERROR:
    case BRUMA_REASON_NAME_ADDRESS_REFUSED:
    case BRUMA_REASON_NAME_NOT_FOUND:
    case BRUMA_REASON_NAME_SERVER_FAILED:
    case BRUMA_REASON_NAME_TIMEOUT:
    case BRUMA_REASON_PEER_RESET:
    case BRUMA_REASON_TLS_HANDSHAKE_FAILED:
    case BRUMA_REASON_TLS_HANDSHAKE_TIMEOUT:
    case BRUMA_REASON_TUNNEL_PING_TIMEOUT:
        return true;
    default:
        return false;
    }
}

void retry_route(const struct connection *c, const struct workload *local, uint64_t *random,
                 struct route *ret)
{
    struct worker *w = connection_worker(c);
    struct endpoint_filter filter = {
        .leaving = &w->leaving, .ejected = &w->ejected, .now = loop_now(w->loop)};

    if (c->tried) {
        filter.tried = c->tried->all;
        filter.tried_len = c->tried->len;
    }
    route_outbound(w->state, local, &c->destination, random, &filter, ret);
}

uint64_t retry_patience(const struct connection *c)
{
    const struct proxy_settings *set = connection_worker(c)->settings;

    if (!c->endpoint.port || (c->tried ? c->tried->len : 0) >= set->outbound_retries)
        return 0;
    return set->connect_timeout < PATIENCE_SHARE ? 1 : set->connect_timeout / PATIENCE_SHARE;
}

static bool may_try(const struct connection *c)
{
    uint64_t now = loop_now(connection_worker(c)->loop);

    return !c->wp->deleted && retry_patience(c) && (!c->tried || now < c->tried->until);
}

/* False: no memory for it. */
static bool remember(struct connection *c)
{
    struct worker *w = connection_worker(c);
    uint64_t first = c->opened ? c->flow.opened / 1000000 : loop_now(w->loop);

    if (!c->tried) {
        c->tried = calloc(1, sizeof(*c->tried));
        if (!c->tried)
            return false;
        c->tried->until = first + w->settings->connect_timeout;
    }
    c->tried->all[c->tried->len++] = c->endpoint;
    return true;
}

bool retry_elsewhere(struct connection *c, enum bruma_reason reason, struct route *ret)
{
    struct worker *w = connection_worker(c);
    struct route route;

    if (!c->endpoint.port || !is_of_endpoint(reason))
        return false;
    if (ejected_add(&w->ejected, &c->endpoint, loop_now(w->loop), w->settings->ejection_time, reason))
        telemetry_ejected(w->telemetry);
    if (!may_try(c) || !remember(c))
        return false;
    retry_route(c, worker_pod_source(c->wp), &w->random, &route);
    /* A destination that is no service's any more, or only a failure, is not what was dialed. */
    if (!route.endpoint.port || (route.kind != ROUTE_HBONE && route.kind != ROUTE_TCP)) {
        c->tried->len--;
        route_release(&route);
        return false;
    }
    telemetry_retry(w->telemetry, &c->flow, reason);
    c->opened = c->opens_late = c->gateway = false;
    *ret = route;
    return true;
}

bool retry_possible(struct connection *c, enum bruma_reason reason)
{
    struct route route;

    if (!retry_elsewhere(c, reason, &route))
        return false;
    route_release(&route);
    return true;
}

const char *retry_rejected_text(int status, char buf[REJECTED_TEXT_LEN])
{
    snprintf(buf, REJECTED_TEXT_LEN, "the peer answered CONNECT with status %d", status);
    return buf;
}

void retry_over(struct connection *c)
{
    telemetry_settle(connection_worker(c)->telemetry, &c->flow);
    if (c->endpoint.port)
        ejected_forget(&connection_worker(c)->ejected, &c->endpoint);
    free(c->tried);
    c->tried = NULL;
}
