/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Hostnames and what DNS has said of them, good or bad, each for its time. The number of entries is bounded,
 * and so is the size of each; a new name takes the place of the one that nobody has wanted for the longest.
 * Not thread-safe: whoever has the cache locks it. now: milliseconds of loop_now(), of whatever loop.
 */
#ifndef PROXY_RESOLVE_NAME_CACHE_H
#define PROXY_RESOLVE_NAME_CACHE_H

#include <stdbool.h>
#include <stddef.h>

#include "lib/list.h"
#include "proxy/resolve/name_answer.h"

#define NAME_TTL_MIN       1    /* seconds: a name is not asked for each connection */
#define NAME_TTL_MAX       3600 /* seconds: a mistake in DNS does not stay for days */
#define NAME_NOT_FOUND_TTL 5    /* seconds that a name is known not to exist */
#define NAME_FAILURE_TTL   1    /* seconds after any other failure */

struct name_cache;

struct name_entry {
    struct list slot; /* in the cache's table */
    struct list use;  /* in the cache's list, the longest unused first */
    bool asking;      /* a query is on its way: the entry stays where it is */
    uint64_t until;   /* milliseconds; what answer is good for; 0: there is none */
    struct name_answer answer;
    char name[];
};

/* max: entries, at least 1. 0 or -ENOMEM. */
int name_cache_new(size_t max, struct name_cache **ret);
void name_cache_free(struct name_cache **cache);

/* The entry of the name, made if there is none: it has no answer then. It counts as used. Valid until another
 * one is got, and while it is asking. NULL: no memory, or all entries are asking. */
struct name_entry *name_cache_get(struct name_cache *cache, const char *name);
/* The same, if it is there, and it does not count as used; valid until one is got. NULL: it is not. */
const struct name_entry *name_cache_peek(const struct name_cache *cache, const char *name);
/* Whether the entry's answer is good. */
bool name_entry_good(const struct name_entry *entry, uint64_t now);
/* The query is over. ttl: seconds, as the answer said; of no meaning where there is a reason. */
void name_entry_answer(struct name_entry *entry, const struct name_answer *answer, uint32_t ttl,
                       uint64_t now);

/* How many names there are. */
size_t name_cache_len(const struct name_cache *cache);
/* How many have made place for others, since the start. */
uint64_t name_cache_replaced(const struct name_cache *cache);

#endif
