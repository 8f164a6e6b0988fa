/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent/control_plane/xds_resources_private.h"
#include "lib/cleanup.h"

struct absent {
    struct list node;
    char name[];
};

int xds_subscriber_open(struct xds_resources *resources, bool wildcard, struct xds_subscriber **ret)
{
    struct xds_subscriber *s = calloc(1, sizeof(*s));
    int r = 0;

    if (!s)
        return -ENOMEM;
    s->resources = resources;
    s->wildcard = wildcard;
    list_init(&s->absent);
    list_add_tail(&resources->subscribers, &s->node);
    if (!wildcard)
        r = xds_resources_index_keys(resources);
    for (uint32_t i = 0; i < resources->slots && r == 0; i++) {
        if (xds_slot(resources, i)->live)
            r = xds_subscriber_notice(s, xds_slot(resources, i));
    }
    if (r < 0) {
        xds_subscriber_close(&s);
        return r;
    }
    *ret = s;
    return 0;
}

void xds_subscriber_close(struct xds_subscriber **subscriber)
{
    struct xds_subscriber *s = *subscriber;
    struct absent *a;

    if (!s)
        return;
    list_del(&s->node);
    for (uint32_t i = 0; i < s->room; i++) {
        if (s->sent[i] != XDS_HOLDS_NOTHING) {
            xds_slot(s->resources, i)->holders--;
            xds_release(s->resources, xds_slot(s->resources, i));
        }
    }
    list_for_each (a, &s->absent, node)
        free(a);
    for (size_t i = 0; i < s->keys_len; i++)
        free(s->keys[i]);
    free(s->keys);
    item_index_free(&s->key_index);
    free(s->sent);
    free(s->dirty);
    free(s);
    *subscriber = NULL;
}

bool xds_subscriber_wildcard(const struct xds_subscriber *subscriber)
{
    return subscriber->wildcard;
}

bool xds_subscriber_pending(const struct xds_subscriber *subscriber)
{
    return subscriber->dirty_count > 0 || subscriber->absent_count > 0;
}

/* ---- requests ---- */

int xds_subscriber_set_wildcard(struct xds_subscriber *subscriber, bool wildcard)
{
    int r = wildcard ? 0 : xds_resources_index_keys(subscriber->resources);

    if (r < 0 || subscriber->wildcard == wildcard)
        return r;
    subscriber->wildcard = wildcard;
    for (uint32_t i = 0; i < subscriber->resources->slots && r == 0; i++) {
        if (xds_slot(subscriber->resources, i)->live)
            r = xds_subscriber_notice(subscriber, xds_slot(subscriber->resources, i));
    }
    return r;
}

int xds_subscriber_holds(struct xds_subscriber *subscriber, const char *name, const char *version)
{
    struct xds_resource *resource = xds_find(subscriber->resources, name);
    char ours[17];
    int r = 0;

    /* A name that is unknown gets a slot as if its resource had just been removed. */
    if (!resource)
        r = xds_new_slot(subscriber->resources, name, &resource);
    if (r == 0)
        r = xds_marks_grow(subscriber);
    if (r < 0)
        return r;
    snprintf(ours, sizeof(ours), "%016llx", (unsigned long long)resource->version);
    if (resource->live && !strcmp(ours, version)) {
        xds_set_sent(subscriber, resource, resource->version);
        xds_unmark(subscriber, resource->slot);
    } else {
        xds_set_sent(subscriber, resource, XDS_HOLDS_OTHER);
        xds_mark(subscriber, resource->slot);
    }
    return 0;
}

static int add_key(struct xds_subscriber *s, const char *text)
{
    char *key, **more;

    if (xds_subscriber_asked(s, text))
        return 0;
    if (s->keys_len == s->keys_room) {
        size_t room = s->keys_room ? s->keys_room * 2 : 16;

        more = reallocarray(s->keys, room, sizeof(*more));
        if (!more)
            return -ENOMEM;
        s->keys = more;
        s->keys_room = room;
    }
    key = strdup(text);
    if (!key || item_index_add(&s->key_index, item_index_hash_text(0, text), key) < 0) {
        free(key);
        return -ENOMEM;
    }
    s->keys[s->keys_len++] = key;
    return 0;
}

static bool key_equals(void *data, const struct xds_resource *resource, const char *key, bool address)
{
    return !strcmp(data, key);
}

static bool has_key(const void *item, const void *key)
{
    return xds_keys(item, key_equals, (void *)key);
}

/* Marks everything that has this key as its name, address or service; the client is answered even if it has
 * it. */
static int mark_key(struct xds_subscriber *s, const char *key, bool again, bool *ret_found)
{
    struct xds_resource *resource = xds_find(s->resources, key);
    uint64_t hash = item_index_hash_text(0, key);
    size_t position = 0;
    int r = xds_marks_grow(s);

    if (r < 0)
        return r;
    *ret_found = resource && resource->live;
    if (!*ret_found)
        resource = item_index_next(&s->resources->by_key, hash, has_key, key, &position);
    for (; resource; resource = item_index_next(&s->resources->by_key, hash, has_key, key, &position)) {
        *ret_found = true;
        if (s->sent[resource->slot] != XDS_HOLDS_NOTHING && again)
            xds_set_sent(s, resource, XDS_HOLDS_OTHER);
        xds_mark(s, resource->slot);
        /* Asked for by its address: its endpoints come with it, now and later. */
        if (resource->wrap == XDS_SERVICE && strcmp(resource->name, key) != 0 &&
            !xds_subscriber_asked(s, resource->name)) {
            bool found;

            r = add_key(s, resource->name);
            if (r == 0)
                r = mark_key(s, resource->name, false, &found);
            if (r < 0)
                return r;
        }
    }
    return 0;
}

int xds_subscriber_add(struct xds_subscriber *subscriber, const char *key)
{
    struct absent *absent;
    bool found = false;
    size_t len;
    int r = xds_resources_index_keys(subscriber->resources);

    if (r == 0)
        r = add_key(subscriber, key);
    if (r == 0)
        r = mark_key(subscriber, key, true, &found);
    if (r < 0 || found)
        return r;
    len = strlen(key);
    absent = malloc(sizeof(*absent) + len + 1);
    if (!absent)
        return -ENOMEM;
    memcpy(absent->name, key, len + 1);
    list_add_tail(&subscriber->absent, &absent->node);
    subscriber->absent_count++;
    return 0;
}

void xds_subscriber_remove(struct xds_subscriber *subscriber, const char *key)
{
    for (size_t i = 0; i < subscriber->keys_len; i++) {
        char *k = subscriber->keys[i];

        if (strcmp(k, key) != 0)
            continue;
        item_index_remove(&subscriber->key_index, item_index_hash_text(0, key), k);
        subscriber->keys[i] = subscriber->keys[--subscriber->keys_len];
        free(k);
        return;
    }
}

/* ---- taking ---- */

void xds_entry_clear(struct xds_entry *entry)
{
    free(entry->value);
    for (size_t i = 0; i < entry->aliases_len; i++)
        free(entry->aliases[i]);
    free(entry->aliases);
    memset(entry, 0, sizeof(*entry));
}

static bool add_alias(void *data, const struct xds_resource *resource, const char *key, bool address)
{
    struct xds_entry *entry = data;
    char **more;

    if (!address)
        return false;
    more = reallocarray(entry->aliases, entry->aliases_len + 1, sizeof(*more));
    if (!more)
        return true;
    entry->aliases = more;
    more[entry->aliases_len] = strdup(key);
    if (!more[entry->aliases_len])
        return true;
    entry->aliases_len++;
    return false;
}

/* 1 if the entry was filled, 0 if the client has it or does not want it. */
static int take_one(struct xds_subscriber *s, struct xds_resource *resource, struct xds_entry *entry)
{
    uint64_t before = s->sent[resource->slot];
    int r;

    if (before == resource->version || (before == XDS_HOLDS_NOTHING && !xds_subscriber_wants(s, resource))) {
        xds_unmark(s, resource->slot);
        return 0;
    }
    memset(entry, 0, sizeof(*entry));
    r = xds_encode(resource, &entry->value, &entry->len);
    if (r == 0 && !s->wildcard && xds_keys(resource, add_alias, entry))
        r = -ENOMEM;
    if (r < 0) {
        xds_entry_clear(entry);
        return r;
    }
    entry->name = resource->name;
    snprintf(entry->version, sizeof(entry->version), "%016llx", (unsigned long long)resource->version);
    xds_set_sent(s, resource, resource->version);
    xds_unmark(s, resource->slot);
    return 1;
}

int xds_subscriber_take(struct xds_subscriber *subscriber, struct xds_entry *entries, size_t max)
{
    uint32_t words = subscriber->room / 64;
    size_t n = 0;

    /* On from where the last call ended: a long list is taken in many calls. */
    for (uint32_t k = 0; k < words && n < max; k++) {
        uint32_t word = (subscriber->cursor + k) % words;

        for (uint64_t bits = subscriber->dirty[word]; bits && n < max; bits &= bits - 1) {
            uint32_t slot = word * 64 + (uint32_t)__builtin_ctzll(bits);
            struct xds_resource *resource = xds_slot(subscriber->resources, slot);
            int r = resource->live ? take_one(subscriber, resource, &entries[n]) : 0;

            if (r < 0)
                return n ? (int)n : r;
            n += (size_t)r;
        }
        if (n == max)
            subscriber->cursor = word;
    }
    return (int)n;
}

int xds_subscriber_take_removed(struct xds_subscriber *subscriber, char **names, size_t max)
{
    struct absent *absent;
    size_t n = 0;

    for (uint32_t word = 0; word < subscriber->room / 64; word++) {
        for (uint64_t bits = subscriber->dirty[word]; bits && n < max; bits &= bits - 1) {
            uint32_t slot = word * 64 + (uint32_t)__builtin_ctzll(bits);
            struct xds_resource *resource = xds_slot(subscriber->resources, slot);

            if (resource->live)
                continue;
            names[n] = strdup(resource->name);
            if (!names[n])
                return n ? (int)n : -ENOMEM;
            n++;
            xds_unmark(subscriber, slot);
            xds_set_sent(subscriber, resource, XDS_HOLDS_NOTHING);
            xds_release(subscriber->resources, resource);
        }
    }
    list_for_each (absent, &subscriber->absent, node) {
        bool found;

        if (n == max)
            break;
        /* It may have come meanwhile. */
        if (mark_key(subscriber, absent->name, false, &found) < 0 || !found) {
            names[n] = strdup(absent->name);
            if (!names[n])
                return n ? (int)n : -ENOMEM;
            n++;
        }
        list_del(&absent->node);
        subscriber->absent_count--;
        free(absent);
    }
    return (int)n;
}
