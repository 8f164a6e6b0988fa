/* SPDX-License-Identifier: Apache-2.0 */
#include "lib/mesh_file/index.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* Open addressing with linear probing. item NULL: never used; item == &removed: its object is gone. */
struct item_index_slot {
    uint64_t hash;
    void *item;
};

static char removed;

uint64_t item_index_hash(uint64_t seed, const void *bytes, size_t len)
{
    const unsigned char *p = bytes;
    uint64_t h = seed ? seed : 0xcbf29ce484222325u;

    for (size_t i = 0; i < len; i++) {
        h ^= p[i];
        h *= 0x100000001b3u;
    }
    return h;
}

uint64_t item_index_hash_text(uint64_t seed, const char *text)
{
    return item_index_hash(seed, text, strlen(text) + 1);
}

/* The low bits of FNV are its weakest. */
static size_t slot_of(const struct item_index *index, uint64_t hash)
{
    return (size_t)(hash ^ hash >> 32) & (index->size - 1);
}

static void place(struct item_index *index, uint64_t hash, void *item)
{
    size_t i = slot_of(index, hash);

    while (index->slots[i].item)
        i = (i + 1) & (index->size - 1);
    index->slots[i].hash = hash;
    index->slots[i].item = item;
    index->used++;
}

static int resize(struct item_index *index)
{
    struct item_index old = *index, grown = {0};
    size_t begin = 0;

    grown.size = 16;
    while (grown.size < (old.count + 1) * 2)
        grown.size *= 2;
    grown.slots = calloc(grown.size, sizeof(*grown.slots));
    if (!grown.slots)
        return -ENOMEM;
    grown.count = old.count;
    /* From behind an empty slot, so that objects with the same hash stay in the order in which they came. */
    while (begin < old.size && old.slots[begin].item)
        begin++;
    for (size_t k = 0; k < old.size; k++) {
        const struct item_index_slot *s = &old.slots[(begin + k) & (old.size - 1)];

        if (s->item && s->item != &removed)
            place(&grown, s->hash, s->item);
    }
    free(old.slots);
    *index = grown;
    return 0;
}

int item_index_add(struct item_index *index, uint64_t hash, void *item)
{
    if ((index->used + 1) * 4 > index->size * 3) {
        int r = resize(index);

        if (r < 0)
            return r;
    }
    place(index, hash, item);
    index->count++;
    return 0;
}

void *item_index_next(const struct item_index *index, uint64_t hash, item_index_match_fn match,
                      const void *key, size_t *position)
{
    size_t i;

    if (!index->size)
        return NULL;
    /* position counts slots from the hash's own. */
    for (i = (slot_of(index, hash) + *position) & (index->size - 1); index->slots[i].item;
         i = (i + 1) & (index->size - 1)) {
        const struct item_index_slot *s = &index->slots[i];

        ++*position;
        if (s->hash == hash && s->item != &removed && match(s->item, key))
            return s->item;
    }
    return NULL;
}

void *item_index_find(const struct item_index *index, uint64_t hash, item_index_match_fn match,
                      const void *key)
{
    size_t position = 0;

    return item_index_next(index, hash, match, key, &position);
}

void item_index_remove(struct item_index *index, uint64_t hash, const void *item)
{
    if (!index->size)
        return;
    for (size_t i = slot_of(index, hash); index->slots[i].item; i = (i + 1) & (index->size - 1)) {
        if (index->slots[i].item == item) {
            index->slots[i].item = &removed;
            index->count--;
            return;
        }
    }
}

void item_index_free(struct item_index *index)
{
    free(index->slots);
    memset(index, 0, sizeof(*index));
}
