/* SPDX-License-Identifier: Apache-2.0 */
/* Bounds on what is on its way to servers, by UDP and TCP together: they hold memory, whoever asks how much.
 */
#include <time.h>

#include "proxy/dns/dns_private.h"

uint64_t dns_nanoseconds(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

bool flight_begin(struct dns_pod *d, enum bruma_reason *ret_reason)
{
    struct worker *w = d->wp->worker;

    if (w->questions >= w->settings->max_dns_queries) {
        *ret_reason = BRUMA_REASON_DNS_QUERIES;
        return false;
    }
    if ((unsigned long)atomic_fetch_add_explicit(&d->wp->pod->questions, 1, memory_order_relaxed) >=
        w->settings->max_pod_dns_queries) {
        atomic_fetch_sub_explicit(&d->wp->pod->questions, 1, memory_order_relaxed);
        *ret_reason = BRUMA_REASON_DNS_POD_QUERIES;
        return false;
    }
    w->questions++;
    return true;
}

void flight_end(struct dns_pod *d)
{
    atomic_fetch_sub_explicit(&d->wp->pod->questions, 1, memory_order_relaxed);
    d->wp->worker->questions--;
}
