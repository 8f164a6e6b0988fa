/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/state/decode.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#define LOG_SCOPE "state"
#include "lib/log.h"

#define BLOCK_SIZE 65536

struct decode_block {
    struct decode_block *next;
    char bytes[] __attribute__((aligned(16)));
};

static void *arena_alloc(void *data, size_t size)
{
    struct decode_arena *arena = data;
    char *at;

    if (size > SIZE_MAX / 2)
        return NULL;
    size = (size + 15) & ~(size_t)15;
    if ((size_t)(arena->end - arena->at) < size) {
        size_t room = size > BLOCK_SIZE ? size : BLOCK_SIZE;
        struct decode_block *block = malloc(sizeof(*block) + room);

        if (!block)
            return NULL;
        block->next = arena->blocks;
        arena->blocks = block;
        arena->at = block->bytes;
        arena->end = block->bytes + room;
    }
    at = arena->at;
    arena->at += size;
    return at;
}

static void arena_free_one(void *data, void *pointer)
{
}

void arena_init(struct decode_arena *arena)
{
    arena->allocator = (ProtobufCAllocator){arena_alloc, arena_free_one, arena};
    arena->blocks = NULL;
    arena->at = arena->first;
    arena->end = arena->first + sizeof(arena->first);
}

void arena_release(struct decode_arena *arena)
{
    struct decode_block *next;

    for (struct decode_block *block = arena->blocks; block; block = next) {
        next = block->next;
        free(block);
    }
    arena->blocks = NULL;
}

ProtobufCMessage *arena_decode(struct decode_arena *arena, const ProtobufCMessageDescriptor *type,
                               const uint8_t *value, size_t len)
{
    return protobuf_c_message_unpack(type, &arena->allocator, len, value);
}

void *layout_take(struct layout *layout, size_t size)
{
    void *part = layout->base ? layout->base + layout->len : NULL;

    layout->len += (size + 7) & ~(size_t)7;
    return part;
}

const char *layout_text(struct layout *layout, const char *text)
{
    size_t size = strlen(text) + 1;
    char *copy = layout->base ? layout->base + layout->len : NULL;

    if (copy)
        memcpy(copy, text, size);
    layout->len += size;
    return copy;
}

int refuse(char *error, size_t error_size, const char *format, ...)
{
    va_list arguments;

    va_start(arguments, format);
    vsnprintf(error, error_size, format, arguments);
    va_end(arguments);
    return -EBADMSG;
}

int prefix_decode(const ProtobufCBinaryData *address, uint32_t length, struct cidr *ret)
{
    struct addr addr;

    if (addr_from_bytes(address->data, address->len, &addr) < 0)
        return -EINVAL;
    if (address->len == 16 && addr_is_v4(&addr)) {
        if (length < 96)
            return -EINVAL;
        length -= 96;
    }
    return cidr_make(&addr, length, ret);
}

void warn_unknown(bool *warned, const char *field, int value, const char *treated_as)
{
    if (*warned)
        return;
    *warned = true;
    log_warn(
        "the control plane uses a value that this version does not know\tfield=%s value=%d treated_as=%s",
        field, value, treated_as);
}
