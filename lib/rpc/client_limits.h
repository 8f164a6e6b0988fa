/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Limits of a server's connections, in all and per source, and the choice which one is closed when another
 * arrives. A new connection is always admitted if one of less worth is there, or one whose source holds more
 * than others: clients that only hold connections must not keep out those that have something to ask.
 */
#ifndef LIB_RPC_CLIENT_LIMITS_H
#define LIB_RPC_CLIENT_LIMITS_H

#include <stdint.h>

#include "lib/list.h"
#include "lib/rpc/peer_source.h"

#define CLIENTS_MAX        64 /* connections, where no setting says otherwise */
#define CLIENTS_PER_SOURCE 16

/* What it would cost to close one, least first. */
enum client_worth {
    CLIENT_IDLE,     /* has been served, and asks for nothing now */
    CLIENT_UNPROVEN, /* has not asked for anything yet, or not to the end */
    CLIENT_BUSY,     /* has asked */
    CLIENT_KEPT,     /* is never closed for another's sake */
};

struct limited_client {
    struct list node; /* the oldest first */
    struct peer_source source;
};

struct client_limits {
    const char *name; /* for the log */
    struct list members;
    unsigned len, max, max_per_source; /* connections */
    /* Called from client_limits_admit() for each member, on its thread: what it is worth now. */
    enum client_worth (*worth)(const struct limited_client *member);
    uint64_t turned_away; /* closed or refused because there were too many */
    uint64_t said;        /* of the last line in the log, 0: none */
};

/* 0 connections for max or max_per_source: the usual ones (64, 16). worth: see the struct; called on
 * the thread of client_limits_admit(). name stays the caller's. */
void client_limits_init(struct client_limits *limits, const char *name, unsigned max, unsigned max_per_source,
                        enum client_worth (*worth)(const struct limited_client *member));

/* For a new connection. 0: there is room; 1: *ret_goes is to be closed first; -EBUSY: it is to be refused.
 * Counts and logs the last two; now: milliseconds. */
int client_limits_admit(struct client_limits *limits, const struct peer_source *source, uint64_t now,
                        struct limited_client **ret_goes);
/* It is in now, as the newest; its source is set. The member stays its owner's. */
void client_limits_add(struct client_limits *limits, struct limited_client *member);
/* It has closed. */
void client_limits_remove(struct client_limits *limits, struct limited_client *member);
/* It has just been served: others are older now. */
void client_limits_refresh(struct client_limits *limits, struct limited_client *member);

#endif
