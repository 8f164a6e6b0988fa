/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/xds/xds_versions.h"

#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define BUCKETS_MIN 64

/* One allocation each: a hundred thousand of them are held. */
struct version_entry {
    struct version_entry *next;
    uint32_t hash;
    uint16_t name_len, version_len;
    bool unsent;
    char text[]; /* name, then version */
};

struct xds_versions {
    struct version_entry **buckets;
    size_t buckets_len, len, unsent;
};

static uint32_t hash(const char *text, size_t len)
{
    uint32_t h = 2166136261u;

    for (size_t i = 0; i < len; i++)
        h = (h ^ (uint8_t)text[i]) * 16777619u;
    return h;
}

int xds_versions_new(struct xds_versions **ret)
{
    struct xds_versions *v = calloc(1, sizeof(*v));

    if (!v)
        return -ENOMEM;
    v->buckets_len = BUCKETS_MIN;
    v->buckets = calloc(v->buckets_len, sizeof(struct version_entry *));
    if (!v->buckets) {
        free(v);
        return -ENOMEM;
    }
    *ret = v;
    return 0;
}

void xds_versions_free(struct xds_versions **ptr)
{
    struct xds_versions *v = *ptr;

    if (!v)
        return;
    for (size_t i = 0; i < v->buckets_len; i++) {
        while (v->buckets[i]) {
            struct version_entry *e = v->buckets[i];

            v->buckets[i] = e->next;
            free(e);
        }
    }
    free(v->buckets);
    free(v);
    *ptr = NULL;
}

static struct version_entry **find(const struct xds_versions *v, uint32_t h, const char *name, size_t len)
{
    struct version_entry **at = &v->buckets[h & (v->buckets_len - 1)];

    while (*at && ((*at)->hash != h || (*at)->name_len != len || memcmp((*at)->text, name, len) != 0))
        at = &(*at)->next;
    return at;
}

static void grow(struct xds_versions *v)
{
    size_t len = v->buckets_len * 2;
    struct version_entry **buckets;

    if (v->len < v->buckets_len)
        return;
    buckets = calloc(len, sizeof(struct version_entry *));
    if (!buckets)
        return; /* longer chains, that is all */
    for (size_t i = 0; i < v->buckets_len; i++) {
        while (v->buckets[i]) {
            struct version_entry *e = v->buckets[i];

            v->buckets[i] = e->next;
            e->next = buckets[e->hash & (len - 1)];
            buckets[e->hash & (len - 1)] = e;
        }
    }
    free(v->buckets);
    v->buckets = buckets;
    v->buckets_len = len;
}

static void set_unsent(struct xds_versions *v, struct version_entry *e, bool unsent)
{
    v->unsent += (size_t)unsent - (size_t)e->unsent;
    e->unsent = unsent;
}

int xds_versions_set(struct xds_versions *v, const char *name, size_t name_len, const char *version,
                     size_t version_len)
{
    uint32_t h = hash(name, name_len);
    struct version_entry **at = find(v, h, name, name_len), *e = *at, *fresh;

    if (name_len > UINT16_MAX || version_len > UINT16_MAX)
        return -EINVAL;
    if (!version_len)
        version = ""; /* istiod gives policies none, and memcpy() wants a pointer */
    if (e)
        set_unsent(v, e, false);
    if (e && e->version_len == version_len) {
        memcpy(e->text + name_len, version, version_len);
        return 0;
    }
    fresh = malloc(sizeof(*fresh) + name_len + version_len);
    if (!fresh)
        return -ENOMEM;
    *fresh = (struct version_entry){
        .hash = h, .name_len = (uint16_t)name_len, .version_len = (uint16_t)version_len};
    memcpy(fresh->text, name, name_len);
    memcpy(fresh->text + name_len, version, version_len);
    fresh->next = e ? e->next : NULL;
    *at = fresh;
    if (e) {
        free(e);
    } else {
        v->len++;
        grow(v);
    }
    return 0;
}

void xds_versions_remove(struct xds_versions *v, const char *name, size_t name_len)
{
    struct version_entry **at = find(v, hash(name, name_len), name, name_len), *e = *at;

    if (!e)
        return;
    set_unsent(v, e, false);
    *at = e->next;
    free(e);
    v->len--;
}

bool xds_versions_has(const struct xds_versions *v, const char *name, size_t name_len)
{
    return *find(v, hash(name, name_len), name, name_len) != NULL;
}

size_t xds_versions_count(const struct xds_versions *v)
{
    return v->len;
}

void xds_versions_each(struct xds_versions *v,
                       bool (*each)(void *data, const char *name, size_t name_len, const char *version,
                                    size_t version_len),
                       void *data)
{
    for (size_t i = 0; i < v->buckets_len; i++) {
        for (struct version_entry *e = v->buckets[i]; e; e = e->next)
            set_unsent(v, e, !each(data, e->text, e->name_len, e->text + e->name_len, e->version_len));
    }
}

size_t xds_versions_unsent(const struct xds_versions *v)
{
    return v->unsent;
}

void xds_versions_mention(struct xds_versions *v, const char *name, size_t name_len)
{
    struct version_entry *e = *find(v, hash(name, name_len), name, name_len);

    if (e)
        set_unsent(v, e, false);
}

void xds_versions_sweep(struct xds_versions *v, void (*gone)(void *data, const char *name, size_t name_len),
                        void *data)
{
    for (size_t i = 0; i < v->buckets_len && v->unsent; i++) {
        struct version_entry **at = &v->buckets[i];

        while (*at) {
            struct version_entry *e = *at;

            if (!e->unsent) {
                at = &e->next;
                continue;
            }
            set_unsent(v, e, false);
            *at = e->next;
            v->len--;
            gone(data, e->text, e->name_len);
            free(e);
        }
    }
}
