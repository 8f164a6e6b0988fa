/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/route/ejected.h"

#include <string.h>

static unsigned bucket_of(const struct endpoint *endpoint)
{
    uint32_t h;

    /* the last bytes of an address differ most */
    memcpy(&h, endpoint->addr.bytes + 12, sizeof(h));
    h = (h ^ endpoint->port) * 2654435761u;
    return h >> (32 - EJECTED_BITS);
}

static struct ejected_endpoint *find(const struct ejected *ejected, const struct endpoint *endpoint)
{
    const struct ejected_endpoint *bucket = ejected->slots[bucket_of(endpoint)];

    for (int i = 0; i < EJECTED_WAYS; i++) {
        if (bucket[i].endpoint.port && endpoint_equal(&bucket[i].endpoint, endpoint))
            return (struct ejected_endpoint *)&bucket[i];
    }
    return NULL;
}

static struct ejected_endpoint *first_back(struct ejected *ejected, const struct endpoint *endpoint)
{
    struct ejected_endpoint *bucket = ejected->slots[bucket_of(endpoint)], *first = &bucket[0];

    for (int i = 1; i < EJECTED_WAYS; i++) {
        if (bucket[i].until < first->until)
            first = &bucket[i];
    }
    return first;
}

/* Twice the last time, while that is not long ago. */
static uint64_t time_of(const struct ejected_endpoint *e, uint64_t now, uint64_t time)
{
    uint64_t longest = time > EJECTED_TIME_MAX ? time : EJECTED_TIME_MAX;

    if (!e || now >= e->until + EJECTED_TIME_MAX)
        return time;
    return 2 * e->time < longest ? 2 * e->time : longest;
}

/* Others may be counting. */
static void set_until(struct ejected_endpoint *e, uint64_t until)
{
    __atomic_store_n(&e->until, until, __ATOMIC_RELAXED);
}

bool ejected_add(struct ejected *ejected, const struct endpoint *endpoint, uint64_t now, uint64_t time,
                 enum bruma_reason reason)
{
    struct ejected_endpoint *e = find(ejected, endpoint);

    /* Connections that were on their way when the first one failed say nothing new. */
    if (!time || !endpoint->port || (e && now < e->until))
        return false;
    time = time_of(e, now, time);
    if (!e)
        e = first_back(ejected, endpoint);
    e->endpoint = *endpoint;
    e->time = time;
    e->reason = reason;
    set_until(e, now + time);
    if (e->until > ejected->until)
        ejected->until = e->until;
    return true;
}

void ejected_forget(struct ejected *ejected, const struct endpoint *endpoint)
{
    struct ejected_endpoint *e = find(ejected, endpoint);

    if (!e)
        return;
    e->endpoint = (struct endpoint){};
    set_until(e, 0);
}

const struct ejected_endpoint *ejected_at(const struct ejected *ejected, unsigned index)
{
    return &ejected->slots[index / EJECTED_WAYS][index % EJECTED_WAYS];
}

unsigned ejected_count(const struct ejected *ejected, uint64_t now)
{
    unsigned n = 0;

    for (unsigned i = 0; i < EJECTED_MAX; i++)
        n += now < __atomic_load_n(&ejected_at(ejected, i)->until, __ATOMIC_RELAXED);
    return n;
}

struct endpoint ejected_host(const struct addr *addr)
{
    return (struct endpoint){.addr = *addr, .port = UINT16_MAX};
}

bool ejected_has(const struct ejected *ejected, const struct endpoint *endpoint, uint64_t now)
{
    const struct ejected_endpoint *e;

    if (now >= ejected->until)
        return false;
    e = find(ejected, endpoint);
    return e && now < e->until;
}
