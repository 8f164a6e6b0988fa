/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/connection/hostname.h"

#include <stdio.h>

#include "proxy/connection/retry.h"
#include "proxy/resolve/resolver.h"
#include "proxy/route/endpoints.h"
#include "proxy/socket/socket.h"
#include "proxy/telemetry/name_metrics.h"

#define SLACK_MILLISECONDS 1000

/* One of the hostname's addresses: of the preferred family, if there are any. */
static const struct addr *choose_address(const struct name_answer *answer, bool prefers_ipv4,
                                         uint64_t *random)
{
    const struct addr *preferred[NAME_ADDRESSES_MAX];
    uint32_t len = 0;

    for (uint32_t i = 0; i < answer->len; i++) {
        if (addr_is_v4(&answer->addresses[i]) == prefers_ipv4)
            preferred[len++] = &answer->addresses[i];
    }
    return len ? preferred[random_below(random, len)] : &answer->addresses[random_below(random, answer->len)];
}

/* The name has no address for us: another endpoint of the service may have one, or the connection is over. */
static enum hostname_step name_failed(struct pending *p, const struct route *route, enum bruma_reason reason,
                                      const char *why)
{
    char detail[400];

    p->c.endpoint = route->endpoint;
    if (retry_possible(&p->c, reason)) {
        p->names = false; /* the next one may have a name too, and time of its own */
        return HOSTNAME_ELSEWHERE;
    }
    snprintf(detail, sizeof(detail), "hostname %.255s of workload %s/%s: %s", route->hostname,
             route->upstream->namespace, route->upstream->name, why);
    pending_refuse(p, reason, detail);
    return HOSTNAME_OVER;
}

static bool is_own_listener(const struct pending *p, const struct route *route)
{
    return route->kind == ROUTE_TCP && worker_pod_listens(p->c.wp, route->target.port) &&
           socket_address_is_local(p->c.wp->worker, p->c.wp->pod, &route->target.addr);
}

enum hostname_step hostname_resolve(struct pending *p, const struct workload *source, struct route *route,
                                    bool timed_out)
{
    struct worker *w = connection_worker(&p->c);
    bool asked = p->names;
    struct name_answer answer;

    p->names = true;
    if (!asked)
        telemetry_name_lookup(w->telemetry, source, route->hostname);
    if (!resolver_look(w->proxy->resolver, route->hostname, loop_now(w->loop), &answer)) {
        if (asked && timed_out)
            return name_failed(p, route, BRUMA_REASON_NAME_TIMEOUT, "no answer in time");
        /* the query ends by itself, and tells; this is for one that does not even begin */
        if (!asked)
            waiter_set_time(&p->admission.waiter, w->settings->name_timeout + SLACK_MILLISECONDS);
        return HOSTNAME_WAITS;
    }
    if (answer.reason != BRUMA_REASON_NONE)
        return name_failed(p, route, answer.reason, answer.detail);
    route_resolved(route, choose_address(&answer, route->prefers_ipv4, &w->random));
    if (is_own_listener(p, route)) {
        pending_refuse(p, BRUMA_REASON_SELF_CALL, NULL);
        return HOSTNAME_OVER;
    }
    return HOSTNAME_KNOWN;
}
