/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/direct/mesh_set.h"

#include <errno.h>
#include <stdlib.h>

#include "proxy/state/hash.h"

#define SLOTS_MIN 64
#define NONE      UINT32_MAX

struct entry {
    struct addr addr;
    uint32_t count;   /* objects that have it */
    uint32_t written; /* what the map says; 0: it has none */
    uint32_t chain;   /* the next of the same slot, or of the free ones; NONE: the last */
    uint32_t dirty;   /* the next that is to be flushed; NONE: the last */
    uint8_t length;
    bool is_dirty;
};

struct mesh_set {
    const struct map_ops *ops;
    uint64_t number;
    bool live, lost;
    struct entry *entries; /* they keep their place */
    uint32_t len, capacity, unused;
    uint32_t *slots; /* a power of two of them; NONE: empty */
    uint32_t slots_len;
    uint32_t dirty_first, dirty_last;
    size_t used;
    size_t addresses, prefixes; /* in the maps */
};

int mesh_set_new(const struct map_ops *ops, uint64_t number, struct mesh_set **ret)
{
    struct mesh_set *set = calloc(1, sizeof(*set));

    if (!set)
        return -ENOMEM;
    set->ops = ops;
    set->number = number;
    set->unused = set->dirty_first = set->dirty_last = NONE;
    *ret = set;
    return 0;
}

void mesh_set_free(struct mesh_set **set)
{
    if (!*set)
        return;
    free((*set)->entries);
    free((*set)->slots);
    free(*set);
    *set = NULL;
}

/* ---- the table ---- */

static uint32_t slot_of(const struct mesh_set *set, const struct addr *addr, uint8_t length)
{
    return (uint32_t)hash_pair(hash_bytes(addr, sizeof(*addr)), length) & (set->slots_len - 1);
}

static uint32_t find(const struct mesh_set *set, const struct cidr *range)
{
    uint32_t at = set->slots_len ? set->slots[slot_of(set, &range->addr, range->length)] : NONE;

    while (at != NONE &&
           (set->entries[at].length != range->length || !addr_equal(&set->entries[at].addr, &range->addr)))
        at = set->entries[at].chain;
    return at;
}

static int grow_slots(struct mesh_set *set)
{
    uint32_t n = set->slots_len ? set->slots_len * 2 : SLOTS_MIN;
    uint32_t *slots = malloc((size_t)n * sizeof(*slots)), *old = set->slots;
    uint32_t old_len = set->slots_len;

    if (!slots)
        return -ENOMEM;
    for (uint32_t i = 0; i < n; i++)
        slots[i] = NONE;
    set->slots = slots;
    set->slots_len = n;
    for (uint32_t i = 0; i < old_len; i++) {
        for (uint32_t at = old[i], next; at != NONE; at = next) {
            uint32_t slot = slot_of(set, &set->entries[at].addr, set->entries[at].length);

            next = set->entries[at].chain;
            set->entries[at].chain = slots[slot];
            slots[slot] = at;
        }
    }
    free(old);
    return 0;
}

static int grow_entries(struct mesh_set *set)
{
    uint32_t capacity = set->capacity ? set->capacity * 2 : SLOTS_MIN;
    struct entry *entries = reallocarray(set->entries, capacity, sizeof(*entries));

    if (!entries)
        return -ENOMEM;
    set->entries = entries;
    set->capacity = capacity;
    return 0;
}

static int insert(struct mesh_set *set, const struct cidr *range, uint32_t *ret)
{
    uint32_t at = set->unused, slot;

    if (set->used >= set->slots_len && grow_slots(set) < 0)
        return -ENOMEM;
    if (at == NONE && set->len == set->capacity && grow_entries(set) < 0)
        return -ENOMEM;
    if (at == NONE)
        at = set->len++;
    else
        set->unused = set->entries[at].chain;
    slot = slot_of(set, &range->addr, range->length);
    set->entries[at] = (struct entry){
        .addr = range->addr, .length = range->length, .chain = set->slots[slot], .dirty = NONE};
    set->slots[slot] = at;
    set->used++;
    *ret = at;
    return 0;
}

static void drop(struct mesh_set *set, uint32_t at)
{
    struct entry *e = &set->entries[at];
    uint32_t *link = &set->slots[slot_of(set, &e->addr, e->length)];

    while (*link != at)
        link = &set->entries[*link].chain;
    *link = e->chain;
    e->chain = set->unused;
    set->unused = at;
    set->used--;
}

/* ---- the maps ---- */

static int write_entry(struct mesh_set *set, struct entry *e)
{
    const struct bruma_mesh_objects value = {.objects = e->count};
    bool single = e->length == 128;
    int r;

    if (single) {
        struct bruma_mesh_key key = {.proxy = set->number};

        memcpy(key.address.bytes, e->addr.bytes, sizeof(key.address.bytes));
        r = e->count ? set->ops->update(set->ops->data, BRUMA_DIRECT_FD_ADDRESSES, &key, &value)
                     : set->ops->erase(set->ops->data, BRUMA_DIRECT_FD_ADDRESSES, &key);
    } else {
        struct bruma_mesh_prefix key = {.prefix_length = 96u + e->length, .proxy = set->number};

        memcpy(key.address.bytes, e->addr.bytes, sizeof(key.address.bytes));
        r = e->count ? set->ops->update(set->ops->data, BRUMA_DIRECT_FD_PREFIXES, &key, &value)
                     : set->ops->erase(set->ops->data, BRUMA_DIRECT_FD_PREFIXES, &key);
    }
    if (r < 0 && !(r == -ENOENT && !e->count))
        return r;
    *(single ? &set->addresses : &set->prefixes) += (size_t)(e->count > 0) - (size_t)(e->written > 0);
    e->written = e->count;
    return 0;
}

static void make_dirty(struct mesh_set *set, uint32_t at)
{
    struct entry *e = &set->entries[at];

    if (e->is_dirty)
        return;
    e->is_dirty = true;
    e->dirty = NONE;
    if (set->dirty_last == NONE)
        set->dirty_first = at;
    else
        set->entries[set->dirty_last].dirty = at;
    set->dirty_last = at;
}

int mesh_set_add(struct mesh_set *set, const struct cidr *range)
{
    uint32_t at = find(set, range);
    int r = 0;

    if (at == NONE && insert(set, range, &at) < 0) {
        set->lost = true;
        return -ENOMEM;
    }
    set->entries[at].count++;
    /* The number alone, which is for people, may come later. */
    if (set->live && !set->entries[at].written)
        r = write_entry(set, &set->entries[at]);
    if (set->entries[at].written != set->entries[at].count)
        make_dirty(set, at);
    return r;
}

void mesh_set_remove(struct mesh_set *set, const struct cidr *range)
{
    uint32_t at = find(set, range);

    if (at == NONE || !set->entries[at].count)
        return;
    set->entries[at].count--;
    make_dirty(set, at);
}

static uint32_t take_dirty(struct mesh_set *set)
{
    uint32_t at = set->dirty_first;

    set->dirty_first = set->entries[at].dirty;
    if (set->dirty_first == NONE)
        set->dirty_last = NONE;
    set->entries[at].is_dirty = false;
    return at;
}

/* What is refused goes to the end: something behind it may make room. */
int mesh_set_flush(struct mesh_set *set, size_t max)
{
    uint32_t refused = NONE;
    int error = 0;

    while (set->dirty_first != NONE && set->dirty_first != refused) {
        uint32_t at;
        int r;

        if (!max--)
            return 1;
        at = take_dirty(set);
        r = set->entries[at].written != set->entries[at].count ? write_entry(set, &set->entries[at]) : 0;
        if (r < 0) {
            make_dirty(set, at);
            if (refused == NONE) {
                refused = at;
                error = r;
            }
        } else if (!set->entries[at].count) {
            drop(set, at);
        }
    }
    return error;
}

void mesh_set_go_live(struct mesh_set *set)
{
    set->live = true;
}

void mesh_set_stop(struct mesh_set *set)
{
    set->live = false;
}

void mesh_set_recount(struct mesh_set *set)
{
    set->live = set->lost = false;
    for (uint32_t i = 0; i < set->slots_len; i++) {
        for (uint32_t at = set->slots[i]; at != NONE; at = set->entries[at].chain) {
            set->entries[at].count = 0;
            make_dirty(set, at);
        }
    }
}

bool mesh_set_is_lost(const struct mesh_set *set)
{
    return set->lost;
}

size_t mesh_set_addresses(const struct mesh_set *set)
{
    return set->addresses;
}

size_t mesh_set_prefixes(const struct mesh_set *set)
{
    return set->prefixes;
}
