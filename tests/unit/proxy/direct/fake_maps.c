/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/proxy/direct/fake_maps.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "proxy/state/hash.h"

struct fake_entry {
    struct fake_entry *next;
    unsigned char bytes[]; /* the key, and behind it the value */
};

static size_t slot_of(const struct fake_map *m, const void *key)
{
    return (size_t)(hash_bytes(key, m->key_size) % FAKE_SLOTS);
}

static struct fake_entry **find(struct fake_map *m, const void *key)
{
    struct fake_entry **link = &m->slots[slot_of(m, key)];

    while (*link && memcmp((*link)->bytes, key, m->key_size) != 0)
        link = &(*link)->next;
    return link;
}

static int update(void *data, enum bruma_direct_fd map, const void *key, const void *value)
{
    struct fake_maps *maps = data;
    struct fake_map *m = &maps->maps[map];
    struct fake_entry **link, *e;
    int r = 0;

    pthread_mutex_lock(&maps->lock);
    m->updates++;
    link = find(m, key);
    e = *link;
    if (!e && m->len >= m->max) {
        r = -E2BIG;
    } else if (!e) {
        e = *link = calloc(1, sizeof(*e) + m->key_size + m->value_size);
        memcpy(e->bytes, key, m->key_size);
        m->len++;
    }
    if (r == 0)
        memcpy(e->bytes + m->key_size, value, m->value_size);
    pthread_mutex_unlock(&maps->lock);
    return r;
}

static int erase(void *data, enum bruma_direct_fd map, const void *key)
{
    struct fake_maps *maps = data;
    struct fake_map *m = &maps->maps[map];
    struct fake_entry **link, *e;

    pthread_mutex_lock(&maps->lock);
    link = find(m, key);
    e = *link;
    if (e) {
        *link = e->next;
        m->len--;
        free(e);
    }
    pthread_mutex_unlock(&maps->lock);
    return e ? 0 : -ENOENT;
}

static int look(void *data, enum bruma_direct_fd map, const void *key, void *ret_value)
{
    struct fake_maps *maps = data;
    struct fake_map *m = &maps->maps[map];
    struct fake_entry *e;

    pthread_mutex_lock(&maps->lock);
    e = *find(m, key);
    if (e)
        memcpy(ret_value, e->bytes + m->key_size, m->value_size);
    pthread_mutex_unlock(&maps->lock);
    return e ? 0 : -ENOENT;
}

/* As the kernel does: behind a key that is gone comes the first one. */
static int next(void *data, enum bruma_direct_fd map, const void *key, void *ret_key)
{
    struct fake_maps *maps = data;
    struct fake_map *m = &maps->maps[map];
    struct fake_entry *e = NULL;
    size_t slot = 0;

    pthread_mutex_lock(&maps->lock);
    if (key && *find(m, key)) {
        e = (*find(m, key))->next;
        slot = slot_of(m, key) + 1;
    }
    while (!e && slot < FAKE_SLOTS)
        e = m->slots[slot++];
    if (e)
        memcpy(ret_key, e->bytes, m->key_size);
    pthread_mutex_unlock(&maps->lock);
    return e ? 0 : -ENOENT;
}

void fake_maps_init(struct fake_maps *maps)
{
    static const size_t sizes[BRUMA_DIRECT_FD_COUNT][2] = {
        [BRUMA_DIRECT_FD_PROXIES] = {sizeof(uint64_t), sizeof(uint64_t)},
        [BRUMA_DIRECT_FD_PODS] = {sizeof(uint64_t), sizeof(struct bruma_direct_pod)},
        [BRUMA_DIRECT_FD_ADDRESSES] = {sizeof(struct bruma_mesh_key), sizeof(struct bruma_mesh_objects)},
        [BRUMA_DIRECT_FD_PREFIXES] = {sizeof(struct bruma_mesh_prefix), sizeof(struct bruma_mesh_objects)},
    };

    memset(maps, 0, sizeof(*maps));
    pthread_mutex_init(&maps->lock, NULL);
    for (int i = 0; i < BRUMA_DIRECT_FD_COUNT; i++) {
        maps->maps[i].key_size = sizes[i][0];
        maps->maps[i].value_size = sizes[i][1];
        maps->maps[i].max = 100000;
    }
    maps->ops = (struct map_ops){.update = update, .erase = erase, .find = look, .next = next, .data = maps};
}

void fake_maps_free(struct fake_maps *maps)
{
    for (int i = 0; i < BRUMA_DIRECT_FD_COUNT; i++) {
        for (size_t slot = 0; slot < FAKE_SLOTS; slot++) {
            for (struct fake_entry *e = maps->maps[i].slots[slot], *n; e; e = n) {
                n = e->next;
                free(e);
            }
        }
    }
    pthread_mutex_destroy(&maps->lock);
}

/* The address cut to so many of its bits, as the trie compares it. */
static struct bruma_address cut(const struct addr *addr, unsigned length)
{
    struct bruma_address ret = {};

    for (unsigned i = 0; i < 16 && length; i++) {
        unsigned bits = length < 8 ? length : 8;

        ret.bytes[i] = (unsigned char)(addr->bytes[i] & (0xff00u >> bits));
        length -= bits;
    }
    return ret;
}

bool fake_maps_has_mesh(struct fake_maps *maps, uint64_t proxy, const struct addr *addr)
{
    struct bruma_mesh_key key = {.address = cut(addr, 128), .proxy = proxy};
    struct bruma_mesh_objects value;

    if (look(maps, BRUMA_DIRECT_FD_ADDRESSES, &key, &value) == 0)
        return true;
    if (!fake_maps_len(maps, BRUMA_DIRECT_FD_PREFIXES))
        return false;
    for (unsigned length = 0; length < 128; length++) {
        struct bruma_mesh_prefix prefix = {
            .prefix_length = 96 + length, .proxy = proxy, .address = cut(addr, length)};

        if (look(maps, BRUMA_DIRECT_FD_PREFIXES, &prefix, &value) == 0)
            return true;
    }
    return false;
}

size_t fake_maps_len(struct fake_maps *maps, enum bruma_direct_fd map)
{
    size_t len;

    pthread_mutex_lock(&maps->lock);
    len = maps->maps[map].len;
    pthread_mutex_unlock(&maps->lock);
    return len;
}
