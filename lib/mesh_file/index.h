/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A hash index over objects that live elsewhere: from the hash of a key to the objects with that key. The
 * caller compares keys; several objects may share one. Removing while iterating is not supported.
 */
#ifndef LIB_MESH_FILE_INDEX_H
#define LIB_MESH_FILE_INDEX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Zeroed is empty. */
struct item_index {
    struct item_index_slot *slots;
    size_t size; /* a power of two, or 0 */
    size_t used; /* with the slots of removed objects */
    size_t count;
};

/* Called from item_index_find() and item_index_next(), on their thread: true if item has the key. */
typedef bool (*item_index_match_fn)(const void *item, const void *key);

/* FNV-1a, 64 bits. seed 0 begins; the result of one call is the seed of the next for a key of several
 * parts. */
uint64_t item_index_hash(uint64_t seed, const void *bytes, size_t len);
/* The text and the NUL behind it, so that ("ab", "c") and ("a", "bc") differ. */
uint64_t item_index_hash_text(uint64_t seed, const char *text);

int item_index_add(struct item_index *index, uint64_t hash, void *item); /* 0 or -ENOMEM */
/* The object that was added first among those that match, or NULL. It stays its owner's. */
void *item_index_find(const struct item_index *index, uint64_t hash, item_index_match_fn match,
                      const void *key);
/* *position 0 begins; returns the next object with this hash whose key matches, or NULL. */
void *item_index_next(const struct item_index *index, uint64_t hash, item_index_match_fn match,
                      const void *key, size_t *position);
/* item was added with that hash; if it was not, nothing happens. */
void item_index_remove(struct item_index *index, uint64_t hash, const void *item);
/* Frees the table; the index is empty then. Objects are their owners'. */
void item_index_free(struct item_index *index);

#endif
