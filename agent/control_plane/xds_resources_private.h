/* SPDX-License-Identifier: Apache-2.0 */
/* What xds_resources.c and xds_subscriber.c know of each other. */
#ifndef AGENT_CONTROL_PLANE_XDS_RESOURCES_PRIVATE_H
#define AGENT_CONTROL_PLANE_XDS_RESOURCES_PRIVATE_H

#include "agent/control_plane/xds_resources.h"

#define XDS_BLOCK 1024u /* slots that are allocated at once; they never move */

/* Versions that a subscriber may hold beside real ones, which are larger. */
#define XDS_HOLDS_NOTHING 0u
#define XDS_HOLDS_OTHER   1u

struct xds_resource {
    char *name; /* NULL: the slot is free */
    uint64_t name_hash;
    uint64_t version; /* of the content; sent as 16 hexadecimal digits */
    const uint8_t *message;
    uint8_t *tail;
    uint32_t message_len, tail_len;
    uint32_t slot;
    uint32_t holders; /* subscribers that were sent some version */
    uint32_t generation;
    enum xds_wrap wrap;
    bool live, local;
};

struct xds_resources {
    struct xds_resource **blocks;
    uint32_t slots, free_len;
    uint32_t *free; /* slots without a resource */
    size_t live;
    uint32_t generation;
    struct item_index by_name; /* removed ones too while somebody holds them */
    struct item_index by_key;  /* live ones, by what xds_keys() says, while keyed */
    bool keyed;                /* some client has asked by name */
    struct list subscribers;
};

struct xds_subscriber {
    struct list node; /* in resources */
    struct xds_resources *resources;
    bool wildcard;
    uint32_t room;   /* slots that sent and dirty have */
    uint64_t *sent;  /* for each slot the version that the client has */
    uint64_t *dirty; /* a bit for each slot to look at */
    uint32_t dirty_count;
    uint32_t cursor; /* the word of dirty where the last search ended */
    char **keys;     /* what was asked for by name */
    size_t keys_len, keys_room;
    struct item_index key_index; /* the same */
    struct list absent;          /* names to be answered with "no such thing" */
    uint32_t absent_count;
};

/* The slot of that number, below resources->slots: never NULL, the store's. */
static inline struct xds_resource *xds_slot(const struct xds_resources *resources, uint32_t slot)
{
    return &resources->blocks[slot / XDS_BLOCK][slot % XDS_BLOCK];
}

/* The one of that name, also a removed one that somebody holds; NULL: none. The store's. */
struct xds_resource *xds_find(const struct xds_resources *resources, const char *name);
/* A slot for a name that is not there yet, not live. 0 or -ENOMEM; *ret is the store's. */
int xds_new_slot(struct xds_resources *resources, const char *name, struct xds_resource **ret);
/* Frees the slot if the resource is gone and nobody holds it. */
void xds_release(struct xds_resources *resources, struct xds_resource *resource);

/* The value as it is sent; freed by the caller. 0 or -ENOMEM. */
int xds_encode(const struct xds_resource *resource, uint8_t **ret, size_t *ret_len);

/* Other names under which it can be asked for: addresses, and of a workload the services it belongs to.
 * Called from xds_keys(), on its thread; key is valid during the call. True stops. */
typedef bool (*xds_key_fn)(void *data, const struct xds_resource *resource, const char *key, bool address);
/* Calls fn for each of them, before it returns. True if fn has stopped it. */
bool xds_keys(const struct xds_resource *resource, xds_key_fn fn, void *data);
/* From now on by_key is kept. 0 or -ENOMEM. */
int xds_resources_index_keys(struct xds_resources *resources);

/* True if the client has asked for that key by name. */
bool xds_subscriber_asked(const struct xds_subscriber *subscriber, const char *key);
/* The client is to have the resource while it lives. */
bool xds_subscriber_wants(struct xds_subscriber *subscriber, const struct xds_resource *resource);
/* The subscriber can mark all slots that there are. 0 or -ENOMEM. */
int xds_marks_grow(struct xds_subscriber *subscriber);
/* The subscriber shall look at the slot, which it can mark. */
void xds_mark(struct xds_subscriber *subscriber, uint32_t slot);
/* ... or need not. */
void xds_unmark(struct xds_subscriber *subscriber, uint32_t slot);
/* The client has that version of the resource; or XDS_HOLDS_NOTHING, XDS_HOLDS_OTHER. For a slot that it can
 * mark. */
void xds_set_sent(struct xds_subscriber *subscriber, struct xds_resource *resource, uint64_t version);

/* The subscriber shall look at it if it wants it or holds it. 0 or -ENOMEM. */
int xds_subscriber_notice(struct xds_subscriber *subscriber, const struct xds_resource *resource);

#endif
