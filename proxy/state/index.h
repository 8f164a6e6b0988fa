/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Hash index of pointers with one writer and readers without locks. Open addressing; an entry never moves
 * inside a table, and a table that is full or worn is replaced by a new one (the old one goes through
 * reclaim). Entries with equal keys may coexist. Keys are in the entries; the reader compares.
 */
#ifndef PROXY_STATE_INDEX_H
#define PROXY_STATE_INDEX_H

#include <stddef.h>
#include <stdint.h>

#include "proxy/state/reclaim.h"

struct index_table;

struct index {
    struct index_table *table;           /* NULL: empty */
    size_t count;                        /* entries; writer's */
    size_t removals;                     /* so far; atomic */
    uint64_t (*hash)(const void *entry); /* called on the writer's thread: the hash of an entry's key */
};

struct index_cursor {
    const struct index_table *table;
    size_t at, step;
};

/* Makes room for n more entries: the next n inserts cannot fail. 0 or -ENOMEM. */
int index_reserve(struct index *index, size_t n, struct reclaim *reclaim);
/* There must be room (index_reserve()). The entry stays its owner's. */
void index_insert(struct index *index, void *entry);
/* entry is in the index; new has the same key. A reader finds one of the two at any time; after an insert and
 * a remove it might, in between, find neither. */
void index_replace(struct index *index, const void *entry, void *new_entry);
/* entry is in the index; a reader may find it until its next quiescent state. */
void index_remove(struct index *index, const void *entry);
/* Without readers: frees the table; the entries are their owner's. */
void index_free(struct index *index);

/* Candidates for a key with this hash: each has to be compared, NULL is the end. */
struct index_cursor index_cursor(const struct index *index, uint64_t hash);
/* The next one, the owner's: valid until the reader's next quiescent state. NULL is the end. */
void *index_next(struct index_cursor *cursor);

/*
 * A search may pass the place of an entry before it comes and reach that of another one after it went. A
 * reader for whom "there is none" matters searches again if this number has changed meanwhile.
 */
size_t index_removals(const struct index *index);

/* All entries, in no order. *at begins with 0; NULL is the end. Writer's thread. */
void *index_each(const struct index *index, size_t *at);

#endif
