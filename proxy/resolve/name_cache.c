/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/resolve/name_cache.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "proxy/state/hash.h"

struct name_cache {
    size_t max, len, mask;
    uint64_t replaced;
    struct list use; /* struct name_entry, the longest unused first */
    struct list slots[];
};

int name_cache_new(size_t max, struct name_cache **ret)
{
    struct name_cache *c;
    size_t slots = 16;

    while (slots < max)
        slots *= 2;
    c = calloc(1, sizeof(*c) + slots * sizeof(c->slots[0]));
    if (!c)
        return -ENOMEM;
    c->max = max;
    c->mask = slots - 1;
    list_init(&c->use);
    for (size_t i = 0; i < slots; i++)
        list_init(&c->slots[i]);
    *ret = c;
    return 0;
}

static void drop(struct name_cache *c, struct name_entry *e)
{
    list_del(&e->slot);
    list_del(&e->use);
    c->len--;
    free(e);
}

void name_cache_free(struct name_cache **cache)
{
    struct name_cache *c = *cache;

    if (!c)
        return;
    while (!list_empty(&c->use))
        drop(c, list_first(&c->use, struct name_entry, use));
    free(c);
    *cache = NULL;
}

/* False: all are asking. */
static bool make_room(struct name_cache *c)
{
    struct name_entry *e;

    if (c->len < c->max)
        return true;
    list_for_each (e, &c->use, use) {
        if (e->asking)
            continue;
        drop(c, e);
        c->replaced++;
        return true;
    }
    return false;
}

static struct name_entry *find(const struct list *slot, const char *name)
{
    struct name_entry *e;

    list_for_each (e, slot, slot) {
        if (!strcmp(e->name, name))
            return e;
    }
    return NULL;
}

const struct name_entry *name_cache_peek(const struct name_cache *c, const char *name)
{
    return find(&c->slots[hash_text(name) & c->mask], name);
}

struct name_entry *name_cache_get(struct name_cache *c, const char *name)
{
    struct list *slot = &c->slots[hash_text(name) & c->mask];
    struct name_entry *e = find(slot, name);
    size_t len = strlen(name);

    if (e) {
        list_del(&e->use);
        list_add_tail(&c->use, &e->use);
        return e;
    }
    if (!make_room(c))
        return NULL;
    e = calloc(1, sizeof(*e) + len + 1);
    if (!e)
        return NULL;
    memcpy(e->name, name, len + 1);
    list_add_tail(slot, &e->slot);
    list_add_tail(&c->use, &e->use);
    c->len++;
    return e;
}

bool name_entry_good(const struct name_entry *e, uint64_t now)
{
    return now < e->until;
}

void name_entry_answer(struct name_entry *e, const struct name_answer *answer, uint32_t ttl, uint64_t now)
{
    if (answer->reason == BRUMA_REASON_NAME_NOT_FOUND)
        ttl = NAME_NOT_FOUND_TTL;
    else if (answer->reason != BRUMA_REASON_NONE)
        ttl = NAME_FAILURE_TTL;
    else if (ttl < NAME_TTL_MIN)
        ttl = NAME_TTL_MIN;
    else if (ttl > NAME_TTL_MAX)
        ttl = NAME_TTL_MAX;
    e->answer = *answer;
    e->until = now + ttl * UINT64_C(1000);
    e->asking = false;
}

size_t name_cache_len(const struct name_cache *c)
{
    return c->len;
}

uint64_t name_cache_replaced(const struct name_cache *c)
{
    return c->replaced;
}
