/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The resources of one xDS type, and what each subscriber has of them. A resource has a slot; a subscriber
 * remembers, for each slot, the version it was sent, and marks those to look at again. So a push costs what
 * has changed, and the versions that a client names when it comes back are simply where it starts.
 *
 * A removed resource keeps its slot until no subscriber holds it any more.
 */
#ifndef AGENT_CONTROL_PLANE_XDS_RESOURCES_H
#define AGENT_CONTROL_PLANE_XDS_RESOURCES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "lib/list.h"
#include "lib/mesh_file/index.h"

/* How a resource's message becomes the value that is sent. */
enum xds_wrap {
    XDS_PLAIN = 0,       /* as it is: Authorization */
    XDS_WORKLOAD = 0x0a, /* field 1 of istio.workload.Address */
    XDS_SERVICE = 0x12,  /* field 2 */
};

/* What the owner has to say about a resource. name and message stay the owner's until the next
 * xds_resources_put() for this name, or xds_resources_remove(), or the end of the store. */
struct xds_content {
    const char *name;
    const uint8_t *message;
    uint32_t message_len;
    const uint8_t *tail; /* more fields for the end of the message; copied */
    uint32_t tail_len;
    enum xds_wrap wrap;
    bool local; /* a workload of this node: goes to clients that ask by name, too */
};

struct xds_resources;
struct xds_subscriber;

/* An empty store. 0 or -ENOMEM. */
int xds_resources_new(struct xds_resources **ret);
/* All subscribers are closed before. */
void xds_resources_free(struct xds_resources **resources);

/* Adds or replaces. 1 if something has changed for clients, 0 if not, -ENOMEM. */
int xds_resources_put(struct xds_resources *resources, const struct xds_content *content);
/* True if there was one; subscribers that hold it are told. */
bool xds_resources_remove(struct xds_resources *resources, const char *name);
/* Two steps that replace a whole set: everything that is not put between them is removed. */
void xds_resources_begin(struct xds_resources *resources);
/* Here others are removed: 1 if any was, 0, or -ENOMEM: subscribers may not have heard of all. */
int xds_resources_end(struct xds_resources *resources);
/* How many there are, without those that were removed. */
size_t xds_resources_count(const struct xds_resources *resources);

/* ---- subscribers ---- */

/* wildcard: everything; else only what xds_subscriber_add() names, and what is local. 0 or -ENOMEM.
 * Closed before the store is freed. */
int xds_subscriber_open(struct xds_resources *resources, bool wildcard, struct xds_subscriber **ret);
void xds_subscriber_close(struct xds_subscriber **subscriber);
/* Whether it gets everything. */
bool xds_subscriber_wildcard(const struct xds_subscriber *subscriber);
/* Changes that. 0, or -ENOMEM: not all that it wants now is marked. */
int xds_subscriber_set_wildcard(struct xds_subscriber *subscriber, bool wildcard);

/* The client holds this version from an earlier stream. A name that does not exist will be reported as
 * removed. 0 or -ENOMEM. */
int xds_subscriber_holds(struct xds_subscriber *subscriber, const char *name, const char *version);
/* The client asks for a resource by its name, by "network/address", or for a service with its
 * endpoints. It is answered even if the client has it already, or if there is no such thing. 0 or
 * -ENOMEM. */
int xds_subscriber_add(struct xds_subscriber *subscriber, const char *key);
/* It does not ask for that any more; what it holds it keeps hearing of. */
void xds_subscriber_remove(struct xds_subscriber *subscriber, const char *key);
/* Whether there is something to send, or to say that there is no such thing. */
bool xds_subscriber_pending(const struct xds_subscriber *subscriber);

/* One resource to send. */
struct xds_entry {
    const char *name; /* good until resources are put or removed */
    char version[17];
    uint8_t *value; /* of len bytes */
    size_t len;
    char **aliases; /* only for clients that ask by name */
    size_t aliases_len;
};

/* Frees what an entry holds. */
void xds_entry_clear(struct xds_entry *entry);
/* Takes up to max resources that the client should get; they count as sent. Returns how many entries
 * are filled, which the caller clears, or -ENOMEM. */
int xds_subscriber_take(struct xds_subscriber *subscriber, struct xds_entry *entries, size_t max);
/* Takes up to max names of resources that the client should forget; freed by the caller. Only once
 * there is no resource left to take: a client must not lose what comes under another name before it has
 * that. Returns how many, or -ENOMEM. */
int xds_subscriber_take_removed(struct xds_subscriber *subscriber, char **names, size_t max);

#endif
