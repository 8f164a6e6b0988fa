/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/direct/departures.h"

#include <stdatomic.h>
#include <stdlib.h>

#include "proxy/state/reclaim.h"

#define RANGES_MIN 8

struct departure {
    struct departure *next;
    atomic_bool over; /* said on the thread of liburcu */
    size_t len, capacity;
    struct cidr ranges[];
};

bool departures_add(struct departures *departures, const struct cidr *range)
{
    struct departure *d = departures->open;

    if (!d || d->len == d->capacity) {
        size_t capacity = d ? d->capacity * 2 : RANGES_MIN;
        struct departure *larger = realloc(d, sizeof(*d) + capacity * sizeof(d->ranges[0]));

        if (!larger)
            return false;
        if (!d)
            *larger = (struct departure){};
        larger->capacity = capacity;
        departures->open = d = larger;
    }
    d->ranges[d->len++] = *range;
    return true;
}

static void set_over(void *departure)
{
    struct departure *d = departure;

    atomic_store_explicit(&d->over, true, memory_order_release);
}

void departures_close(struct departures *departures)
{
    struct departure *d = departures->open;
    struct reclaim reclaim = {};

    if (!d)
        return;
    departures->open = NULL;
    d->next = departures->first;
    departures->first = d;
    /* without memory for it, this one waits until all are forgotten */
    reclaim_add(&reclaim, set_over, d);
    reclaim_flush(&reclaim);
}

bool departures_over(struct departures *departures, mesh_range_fn fn, void *data)
{
    struct departure **link = &departures->first;

    while (*link) {
        struct departure *d = *link;

        if (!atomic_load_explicit(&d->over, memory_order_acquire)) {
            link = &d->next;
            continue;
        }
        *link = d->next;
        for (size_t i = 0; i < d->len; i++)
            fn(data, &d->ranges[i]);
        free(d);
    }
    return departures->first != NULL;
}

void departures_forget(struct departures *departures)
{
    free(departures->open);
    departures->open = NULL;
    for (struct departure *d = departures->first; d; d = d->next)
        d->len = 0;
}

void departures_free(struct departures *departures)
{
    struct departure *next;

    if (departures->first)
        reclaim_wait();
    for (struct departure *d = departures->first; d; d = next) {
        next = d->next;
        free(d);
    }
    free(departures->open);
    departures->first = departures->open = NULL;
}
