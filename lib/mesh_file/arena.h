/* SPDX-License-Identifier: Apache-2.0 */
/* Memory that is given back all at once: many small objects of one origin, such as what a mesh file says. */
#ifndef LIB_MESH_FILE_ARENA_H
#define LIB_MESH_FILE_ARENA_H

#include <stddef.h>

struct arena_block;

/* Zeroed is empty. Not thread-safe. */
struct arena {
    struct arena_block *blocks; /* the one in use first */
    size_t used;                /* bytes of that one */
};

/* The arena's: aligned for any type, zeroed; NULL if there is no memory. */
void *arena_alloc(struct arena *arena, size_t size);
/* The arena's copy, with a NUL behind it; NULL if there is no memory. */
char *arena_copy(struct arena *arena, const char *text, size_t len);
/* Forgets everything but keeps one block for what comes next. */
void arena_reset(struct arena *arena);
/* Adds what from holds to what arena holds; from is empty then. */
void arena_take(struct arena *arena, struct arena *from);
/* Frees all of it; the arena is empty then. */
void arena_free(struct arena *arena);

#endif
