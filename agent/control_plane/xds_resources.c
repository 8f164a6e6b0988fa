/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/control_plane/xds_resources.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "agent/control_plane/xds_resources_private.h"

int xds_resources_new(struct xds_resources **ret)
{
    struct xds_resources *resources = calloc(1, sizeof(*resources));

    if (!resources)
        return -ENOMEM;
    list_init(&resources->subscribers);
    *ret = resources;
    return 0;
}

void xds_resources_free(struct xds_resources **resources)
{
    struct xds_resources *all = *resources;

    if (!all)
        return;
    for (uint32_t i = 0; i < all->slots; i++) {
        free(xds_slot(all, i)->name);
        free(xds_slot(all, i)->tail);
    }
    for (uint32_t i = 0; i < all->slots / XDS_BLOCK; i++)
        free(all->blocks[i]);
    free(all->blocks);
    free(all->free);
    item_index_free(&all->by_name);
    item_index_free(&all->by_key);
    free(all);
    *resources = NULL;
}

static bool name_is(const void *item, const void *key)
{
    return !strcmp(((const struct xds_resource *)item)->name, key);
}

struct xds_resource *xds_find(const struct xds_resources *resources, const char *name)
{
    return item_index_find(&resources->by_name, item_index_hash_text(0, name), name_is, name);
}

/* ---- slots ---- */

static int add_block(struct xds_resources *resources)
{
    uint32_t blocks = resources->slots / XDS_BLOCK;
    struct xds_resource *block, **list;
    uint32_t *free_slots;

    /* Room for every slot, so that giving one back cannot fail. */
    free_slots = reallocarray(resources->free, resources->slots + XDS_BLOCK, sizeof(*free_slots));
    if (!free_slots)
        return -ENOMEM;
    resources->free = free_slots;
    list = reallocarray(resources->blocks, blocks + 1, sizeof(void *));
    if (!list)
        return -ENOMEM;
    resources->blocks = list;
    block = calloc(XDS_BLOCK, sizeof(*block));
    if (!block)
        return -ENOMEM;
    list[blocks] = block;
    for (uint32_t i = XDS_BLOCK; i-- > 0;) {
        block[i].slot = resources->slots + i;
        resources->free[resources->free_len++] = block[i].slot;
    }
    resources->slots += XDS_BLOCK;
    return 0;
}

int xds_new_slot(struct xds_resources *resources, const char *name, struct xds_resource **ret)
{
    uint64_t hash = item_index_hash_text(0, name);
    struct xds_resource *resource;
    int r = resources->free_len ? 0 : add_block(resources);

    if (r < 0)
        return r;
    resource = xds_slot(resources, resources->free[resources->free_len - 1]);
    resource->name = strdup(name);
    r = resource->name ? item_index_add(&resources->by_name, hash, resource) : -ENOMEM;
    if (r < 0) {
        free(resource->name);
        resource->name = NULL;
        return r;
    }
    resources->free_len--;
    resource->name_hash = hash;
    *ret = resource;
    return 0;
}

void xds_release(struct xds_resources *resources, struct xds_resource *resource)
{
    uint32_t slot = resource->slot;

    if (resource->live || resource->holders)
        return;
    item_index_remove(&resources->by_name, resource->name_hash, resource);
    free(resource->name);
    free(resource->tail);
    memset(resource, 0, sizeof(*resource));
    resource->slot = slot;
    resources->free[resources->free_len++] = slot;
}

/* ---- the index of other names ---- */

static bool add_key(void *data, const struct xds_resource *resource, const char *key, bool address)
{
    struct xds_resources *resources = data;

    return item_index_add(&resources->by_key, item_index_hash_text(0, key), (void *)resource) < 0;
}

static bool remove_key(void *data, const struct xds_resource *resource, const char *key, bool address)
{
    struct xds_resources *resources = data;

    item_index_remove(&resources->by_key, item_index_hash_text(0, key), resource);
    return false;
}

int xds_resources_index_keys(struct xds_resources *resources)
{
    if (resources->keyed)
        return 0;
    for (uint32_t i = 0; i < resources->slots; i++) {
        if (xds_slot(resources, i)->live && xds_keys(xds_slot(resources, i), add_key, resources)) {
            item_index_free(&resources->by_key);
            return -ENOMEM;
        }
    }
    resources->keyed = true;
    return 0;
}

/* ---- content ---- */

static uint64_t content_version(const struct xds_content *c)
{
    uint8_t head[2] = {(uint8_t)c->wrap, c->local};
    uint64_t h = item_index_hash(0, head, sizeof(head));

    h = item_index_hash(h, c->message, c->message_len);
    h = item_index_hash(h, c->tail, c->tail_len);
    return h > XDS_HOLDS_OTHER ? h : h + XDS_HOLDS_OTHER + 1;
}

static int notice_all(struct xds_resources *resources, const struct xds_resource *resource)
{
    struct xds_subscriber *s;
    int r = 0;

    list_for_each (s, &resources->subscribers, node) {
        int n = xds_subscriber_notice(s, resource);

        r = r < 0 ? r : n;
    }
    return r;
}

static int set_tail(struct xds_resource *resource, const struct xds_content *c)
{
    uint8_t *tail = NULL;

    if (c->tail_len) {
        tail = malloc(c->tail_len);
        if (!tail)
            return -ENOMEM;
        memcpy(tail, c->tail, c->tail_len);
    }
    free(resource->tail);
    resource->tail = tail;
    resource->tail_len = c->tail_len;
    return 0;
}

int xds_resources_put(struct xds_resources *resources, const struct xds_content *content)
{
    struct xds_resource *resource = xds_find(resources, content->name);
    uint64_t version = content_version(content);
    bool changed;
    int r;

    if (!resource) {
        r = xds_new_slot(resources, content->name, &resource);
        if (r < 0)
            return r;
    }
    changed = !resource->live || resource->version != version;
    if (changed && resource->live && resources->keyed)
        xds_keys(resource, remove_key, resources);
    if (changed) {
        r = set_tail(resource, content);
        if (r < 0)
            return r;
        resources->live += !resource->live;
        resource->live = true;
        resource->version = version;
    }
    /* Also of what has not changed: the bytes may be in another place. */
    resource->message = content->message;
    resource->message_len = content->message_len;
    resource->wrap = content->wrap;
    resource->local = content->local;
    resource->generation = resources->generation;
    if (!changed)
        return 0;
    if (resources->keyed && xds_keys(resource, add_key, resources))
        return -ENOMEM;
    r = notice_all(resources, resource);
    return r < 0 ? r : 1;
}

static int remove_resource(struct xds_resources *resources, struct xds_resource *resource)
{
    int r;

    if (resources->keyed)
        xds_keys(resource, remove_key, resources);
    resource->live = false;
    resource->message = NULL;
    resource->message_len = 0;
    resources->live--;
    r = notice_all(resources, resource);
    xds_release(resources, resource);
    return r;
}

bool xds_resources_remove(struct xds_resources *resources, const char *name)
{
    struct xds_resource *resource = xds_find(resources, name);

    if (!resource || !resource->live)
        return false;
    (void)remove_resource(resources, resource);
    return true;
}

void xds_resources_begin(struct xds_resources *resources)
{
    resources->generation++;
}

int xds_resources_end(struct xds_resources *resources)
{
    int result = 0;

    for (uint32_t i = 0; i < resources->slots; i++) {
        struct xds_resource *resource = xds_slot(resources, i);

        if (resource->live && resource->generation != resources->generation) {
            int r = remove_resource(resources, resource);

            result = result < 0 ? result : r;
        }
    }
    return result;
}

size_t xds_resources_count(const struct xds_resources *resources)
{
    return resources->live;
}
