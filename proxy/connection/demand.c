/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/connection/demand.h"

#include <string.h>

#include "proxy/route/route_keys.h"
#include "proxy/xds/on_demand.h"

struct demand_look {
    struct worker *worker;
    bool full, away;
};

static bool look_up(void *data, const char *key, bool here)
{
    struct demand_look *look = data;
    enum on_demand_answer answer =
        on_demand_look(look->worker->proxy->on_demand, key, here, loop_now(look->worker->loop));

    look->full |= answer == ON_DEMAND_FULL;
    look->away |= answer == ON_DEMAND_AWAY;
    return answer == ON_DEMAND_ANSWERED;
}

/* Its time begins with the first thing that is missing. */
static void wait_for_answer(struct admission *a)
{
    if (!a->looks)
        waiter_set_time(&a->waiter, connection_worker(a->c)->settings->lookup_timeout);
    a->looks = true;
}

static bool settle(struct pending *p, bool known, bool full, bool timed_out, enum admission_step *ret_step)
{
    if (known)
        return true;
    *ret_step = ADMISSION_OVER;
    if (full) {
        pending_refuse(p, BRUMA_REASON_LOOKUP_LIMIT, NULL);
    } else if (timed_out && p->admission.looks) {
        pending_refuse(p, BRUMA_REASON_LOOKUP_TIMEOUT, NULL);
    } else {
        wait_for_answer(&p->admission);
        *ret_step = ADMISSION_WAITS;
    }
    return false;
}

bool demand_destination(struct pending *p, const struct workload *source, bool timed_out,
                        enum admission_step *ret_step)
{
    struct worker *w = connection_worker(&p->c);
    const struct addr *to = &p->c.destination.addr;
    struct demand_look look = {.worker = w};
    bool known;

    if (!w->proxy->on_demand || addr_is_loopback(to))
        return true;
    known = route_key_address(w->state, NULL, to, look_up, &look);
    if (strcmp(source->network, w->settings->network) != 0)
        known &= route_key_address(w->state, source->network, to, look_up, &look);
    return settle(p, known, look.full, timed_out, ret_step);
}

bool demand_route(struct pending *p, const struct route *route, bool timed_out, enum admission_step *ret_step)
{
    struct worker *w = connection_worker(&p->c);
    struct demand_look look = {.worker = w};

    if (!w->proxy->on_demand)
        return true;
    return settle(p, route_keys_of_route(w->state, route, look_up, &look), look.full, timed_out, ret_step);
}

bool demand_inbound(struct admission *a, const struct workload *local, const struct endpoint *arrival,
                    const char *authority, bool timed_out)
{
    struct worker *w = connection_worker(a->c);
    struct demand_look look = {.worker = w};
    bool known;

    if (!w->proxy->on_demand)
        return true;
    known = route_key_address(w->state, NULL, &a->c->client.addr, look_up, &look);
    if (authority)
        known &= route_keys_inbound(w->state, local, arrival, authority, strlen(authority), look_up, &look);
    if (known || look.full || look.away || (timed_out && a->looks))
        return true;
    wait_for_answer(a);
    return false;
}
