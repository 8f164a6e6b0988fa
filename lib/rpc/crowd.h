/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The connections of a server that anybody may connect to: a limit on all and one a source, and who goes when
 * one more comes. A new one is always let in if somebody is there who has shown less, or whose source holds
 * more than others: who only holds connections must not keep out who has something to ask.
 */
#ifndef LIB_RPC_CROWD_H
#define LIB_RPC_CROWD_H

#include <stdint.h>

#include "lib/list.h"
#include "lib/rpc/peer_source.h"

#define CROWD_MAX        64 /* connections, where no setting says otherwise */
#define CROWD_PER_SOURCE 16

/* What it would cost to close one, least first. */
enum crowd_worth {
    CROWD_IDLE,     /* has been served, and asks for nothing now */
    CROWD_UNPROVEN, /* has not asked for anything yet, or not to the end */
    CROWD_BUSY,     /* has asked */
    CROWD_KEPT,     /* is never closed for another's sake */
};

struct crowd_member {
    struct list node; /* the oldest first */
    struct peer_source source;
};

struct crowd {
    const char *name; /* for the log */
    struct list members;
    unsigned len, max, max_per_source; /* connections */
    /* Called from crowd_admit() for each member, on its thread: what it is worth now. */
    enum crowd_worth (*worth)(const struct crowd_member *member);
    uint64_t turned_away; /* closed or refused because there were too many */
    uint64_t said;        /* when the log was told last, 0: never */
};

/* 0 connections for max or max_per_source: the usual ones (64, 16). worth: see the struct; called on
 * the thread of crowd_admit(). name stays the caller's. */
void crowd_init(struct crowd *crowd, const char *name, unsigned max, unsigned max_per_source,
                enum crowd_worth (*worth)(const struct crowd_member *member));

/* One more wants in. 0: there is room; 1: *ret_goes is to be closed first; -EBUSY: it is to be refused.
 * Counts and logs the last two; now: milliseconds. */
int crowd_admit(struct crowd *crowd, const struct peer_source *source, uint64_t now,
                struct crowd_member **ret_goes);
/* It is in now, as the newest; its source is set. The member stays its owner's. */
void crowd_add(struct crowd *crowd, struct crowd_member *member);
/* It has closed. */
void crowd_remove(struct crowd *crowd, struct crowd_member *member);
/* It has just been served: others are older now. */
void crowd_refresh(struct crowd *crowd, struct crowd_member *member);

#endif
