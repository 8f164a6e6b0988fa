/* SPDX-License-Identifier: Apache-2.0 */
/* Which resources a subscriber is to look at again. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "agent/control_plane/xds_resources_private.h"

static bool key_is(const void *item, const void *text)
{
    return !strcmp(item, text);
}

bool xds_subscriber_asked(const struct xds_subscriber *s, const char *text)
{
    return item_index_find(&s->key_index, item_index_hash_text(0, text), key_is, text) != NULL;
}

static bool key_wanted(void *data, const struct xds_resource *resource, const char *key, bool address)
{
    return xds_subscriber_asked(data, key);
}

bool xds_subscriber_wants(struct xds_subscriber *s, const struct xds_resource *resource)
{
    return s->wildcard || resource->local || xds_subscriber_asked(s, resource->name) ||
           xds_keys(resource, key_wanted, s);
}

int xds_marks_grow(struct xds_subscriber *s)
{
    uint32_t room = s->resources->slots;
    uint64_t *p;

    if (s->room >= room)
        return 0;
    p = reallocarray(s->sent, room, sizeof(*p));
    if (!p)
        return -ENOMEM;
    memset(p + s->room, 0, (room - s->room) * sizeof(*p));
    s->sent = p;
    p = reallocarray(s->dirty, room / 64, sizeof(*p));
    if (!p)
        return -ENOMEM;
    memset(p + s->room / 64, 0, (room - s->room) / 64 * sizeof(*p));
    s->dirty = p;
    s->room = room;
    return 0;
}

void xds_mark(struct xds_subscriber *s, uint32_t slot)
{
    uint64_t bit = 1ull << slot % 64;

    s->dirty_count += !(s->dirty[slot / 64] & bit);
    s->dirty[slot / 64] |= bit;
}

void xds_unmark(struct xds_subscriber *s, uint32_t slot)
{
    uint64_t bit = 1ull << slot % 64;

    s->dirty_count -= !!(s->dirty[slot / 64] & bit);
    s->dirty[slot / 64] &= ~bit;
}

void xds_set_sent(struct xds_subscriber *s, struct xds_resource *resource, uint64_t version)
{
    uint64_t before = s->sent[resource->slot];

    s->sent[resource->slot] = version;
    resource->holders += (version != XDS_HOLDS_NOTHING) - (before != XDS_HOLDS_NOTHING);
}

int xds_subscriber_notice(struct xds_subscriber *subscriber, const struct xds_resource *resource)
{
    int r = xds_marks_grow(subscriber);

    if (r < 0)
        return r;
    if (subscriber->sent[resource->slot] != XDS_HOLDS_NOTHING ||
        (resource->live && xds_subscriber_wants(subscriber, resource)))
        xds_mark(subscriber, resource->slot);
    else
        xds_unmark(subscriber, resource->slot); /* of a resource that came and went unsent */
    return 0;
}
