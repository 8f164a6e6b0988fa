/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/pool.h"

static struct list *bucket(struct worker_pod *wp, const struct endpoint *target)
{
    uint32_t h;

    /* the last bytes of an address differ most */
    memcpy(&h, target->addr.bytes + 12, sizeof(h));
    h = (h ^ target->port) * 2654435761u;
    return &wp->clients[h >> (32 - WORKER_POOL_BITS)];
}

void pool_add(struct worker_pod *wp, struct tunnel *tunnel)
{
    list_add_head(bucket(wp, &tunnel->peer), &tunnel->node);
}

struct tunnel *pool_find(struct worker_pod *wp, const struct endpoint *target, uint64_t expected_hash,
                         uint64_t context_serial)
{
    struct tunnel *t, *best = NULL;

    list_for_each (t, bucket(wp, target), node) {
        if (t->expected_hash != expected_hash || t->context_serial != context_serial ||
            !endpoint_equal(&t->peer, target) || !tunnel_capacity(t))
            continue;
        if (t->state == TUNNEL_OPEN)
            return t;
        if (!best)
            best = t;
    }
    return best;
}
