/* SPDX-License-Identifier: Apache-2.0 */
#include "lib/mesh_file/arena.h"

#include <stdalign.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define BLOCK_SIZE (64u * 1024)

struct arena_block {
    struct arena_block *next;
    size_t size;
    alignas(max_align_t) unsigned char bytes[];
};

static int add_block(struct arena *arena, size_t size)
{
    struct arena_block *block;

    if (size > SIZE_MAX - sizeof(*block))
        return -1;
    block = malloc(sizeof(*block) + size);
    if (!block)
        return -1;
    block->size = size;
    block->next = arena->blocks;
    arena->blocks = block;
    arena->used = 0;
    return 0;
}

void *arena_alloc(struct arena *arena, size_t size)
{
    size_t align = alignof(max_align_t);
    void *p;

    if (size > SIZE_MAX - align)
        return NULL;
    size = (size + align - 1) & ~(align - 1);
    if ((!arena->blocks || arena->blocks->size - arena->used < size) &&
        add_block(arena, size > BLOCK_SIZE ? size : BLOCK_SIZE) < 0)
        return NULL;
    p = arena->blocks->bytes + arena->used;
    arena->used += size;
    return memset(p, 0, size);
}

char *arena_copy(struct arena *arena, const char *text, size_t len)
{
    char *copy = len < SIZE_MAX ? arena_alloc(arena, len + 1) : NULL;

    if (!copy)
        return NULL;
    memcpy(copy, text, len);
    return copy;
}

void arena_reset(struct arena *arena)
{
    struct arena_block *keep = NULL, *next;

    for (struct arena_block *b = arena->blocks; b; b = next) {
        next = b->next;
        if (!keep && b->size == BLOCK_SIZE)
            keep = b;
        else
            free(b);
    }
    if (keep)
        keep->next = NULL;
    arena->blocks = keep;
    arena->used = 0;
}

void arena_take(struct arena *arena, struct arena *from)
{
    struct arena_block **end = &arena->blocks;

    while (*end)
        end = &(*end)->next;
    if (end == &arena->blocks)
        arena->used = from->used;
    *end = from->blocks;
    from->blocks = NULL;
    from->used = 0;
}

void arena_free(struct arena *arena)
{
    struct arena_block *next;

    for (struct arena_block *b = arena->blocks; b; b = next) {
        next = b->next;
        free(b);
    }
    arena->blocks = NULL;
    arena->used = 0;
}
