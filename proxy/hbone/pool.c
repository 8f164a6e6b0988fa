/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/hbone/pool.h"

static struct list *bucket(struct worker_pod *wp, const struct endpoint *target)
{
    uint32_t h;

    /* the last bytes of an address differ most */
    memcpy(&h, target->addr.bytes + 12, sizeof(h));
    h = (h ^ target->port) * 2654435761u;
    return &wp->clients[h >> (32 - WORKER_POOL_BITS)];
}

/* What the same peer has said on another tunnel holds for a new one until it says something else. */
static unsigned announced(struct worker_pod *wp, const struct tunnel *tunnel)
{
    struct tunnel *t;

    list_for_each (t, bucket(wp, &tunnel->peer), node) {
        if (t->expected_hash != tunnel->expected_hash || !endpoint_equal(&t->peer, &tunnel->peer))
            continue;
        if (t->session && t->settings_received)
            return nghttp2_session_get_remote_settings(t->session, NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS);
        if (t->announced_streams)
            return t->announced_streams;
    }
    return 0;
}

void pool_add(struct worker_pod *wp, struct tunnel *tunnel)
{
    tunnel->announced_streams = announced(wp, tunnel);
    list_add_head(bucket(wp, &tunnel->peer), &tunnel->node);
}

static bool is_usable(const struct tunnel *t, const struct endpoint *target, uint64_t expected_hash,
                      uint64_t context_serial)
{
    return t->expected_hash == expected_hash && t->context_serial == context_serial &&
           endpoint_equal(&t->peer, target) && tunnel_capacity(t);
}

struct tunnel *pool_find_spread(struct worker_pod *wp, const struct endpoint *target, uint64_t expected_hash,
                                uint64_t context_serial, unsigned spread)
{
    struct tunnel *t, *best = NULL;
    unsigned found = 0, load, least = 0;

    list_for_each (t, bucket(wp, target), node) {
        if (!is_usable(t, target, expected_hash, context_serial))
            continue;
        found++;
        load = t->streams_len + t->queue_len;
        if (!best || load < least) {
            best = t;
            least = load;
        }
    }
    return found < spread && least ? NULL : best;
}

struct tunnel *pool_find(struct worker_pod *wp, const struct endpoint *target, uint64_t expected_hash,
                         uint64_t context_serial)
{
    struct tunnel *t, *best = NULL;

    list_for_each (t, bucket(wp, target), node) {
        if (!is_usable(t, target, expected_hash, context_serial))
            continue;
        if (t->state == TUNNEL_OPEN)
            return t;
        if (!best)
            best = t;
    }
    return best;
}
