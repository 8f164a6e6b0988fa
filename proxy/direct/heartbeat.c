/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/direct/heartbeat.h"

#include <time.h>

#include "bruma/direct.h"
#include "lib/cleanup.h"
#include "proxy/connection/worker_post.h"
#include "proxy/proxy.h"

#define FIRST_MILLISECONDS 20

static uint64_t now_nanoseconds(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static bool all_answered(const struct heartbeat *h)
{
    const struct proxy *p = h->proxy;

    for (unsigned i = 0; i < p->workers_len; i++) {
        if (atomic_load(&p->workers[i]->beat) != h->round)
            return false;
    }
    return true;
}

/* Who has not answered yet is not asked again: messages would pile up. */
static void ask(struct heartbeat *h)
{
    h->asked_at = now_nanoseconds();
    h->round++;
    for (unsigned i = 0; i < h->proxy->workers_len; i++)
        worker_beat(h->proxy->workers[i], h->round);
}

static void on_timer(struct loop_timer *timer)
{
    struct heartbeat *h = container_of(timer, struct heartbeat, timer);

    if (all_answered(h)) {
        h->proven_at = h->asked_at;
        ask(h);
    }
    loop_timer_set(h->proxy->loop, timer,
                   h->proven_at ? BRUMA_DIRECT_RENEW_MILLISECONDS : FIRST_MILLISECONDS);
    h->beat(h->data);
}

void heartbeat_init(struct heartbeat *heartbeat, struct proxy *proxy, void (*beat)(void *data), void *data)
{
    *heartbeat = (struct heartbeat){.proxy = proxy, .beat = beat, .data = data};
    loop_timer_init(&heartbeat->timer, on_timer);
}

void heartbeat_start(struct heartbeat *heartbeat)
{
    if (loop_timer_armed(&heartbeat->timer))
        return;
    if (all_answered(heartbeat))
        ask(heartbeat);
    loop_timer_set(heartbeat->proxy->loop, &heartbeat->timer, FIRST_MILLISECONDS);
}

void heartbeat_stop(struct heartbeat *heartbeat)
{
    loop_timer_cancel(&heartbeat->timer);
    heartbeat->proven_at = heartbeat->asked_at = 0;
}

uint64_t heartbeat_proven(const struct heartbeat *heartbeat)
{
    return heartbeat->proven_at;
}
