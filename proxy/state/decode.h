/* SPDX-License-Identifier: Apache-2.0 */
/* What the decoders of resources share. */
#ifndef PROXY_STATE_DECODE_H
#define PROXY_STATE_DECODE_H

#include <errno.h>
#include <protobuf-c/protobuf-c.h>
#include <stdbool.h>
#include <stddef.h>

#include "lib/addr.h"

struct decode_block;

/* Memory of one decoded message: released as a whole. */
struct decode_arena {
    ProtobufCAllocator allocator;
    struct decode_block *blocks;
    char *at, *end;
    char first[8192] __attribute__((aligned(16)));
};

/* Empty, with the first 8 KiB in the struct itself: it must not move. */
void arena_init(struct decode_arena *arena);
/* Frees all that was decoded into it. */
void arena_release(struct decode_arena *arena);

/* The decoded message, in the arena and valid until its release, or NULL if the bytes are none. */
ProtobufCMessage *arena_decode(struct decode_arena *arena, const ProtobufCMessageDescriptor *type,
                               const uint8_t *value, size_t len);

/* Places parts of an object one behind the other. With base NULL it only counts. */
struct layout {
    char *base;
    size_t len;
};

/* Both return a part of base, the object's; NULL where base is NULL. Room of size bytes, aligned for anything
 * where nothing but such parts was taken before. */
void *layout_take(struct layout *layout, size_t size);
/* The object's own copy of text, with its NUL; NULL as above. */
const char *layout_text(struct layout *layout, const char *text);

/* Writes the reason, returns -EBADMSG. */
int refuse(char *error, size_t error_size, const char *format, ...) __attribute__((format(printf, 3, 4)));

/* Address and prefix length as messages carry them, the length for the family of the bytes. 0 or -EINVAL. */
int prefix_decode(const ProtobufCBinaryData *address, uint32_t length, struct cidr *ret);

/* Says once a process that a newer control plane uses a value that is not known here, and what it counts
 * as. */
void warn_unknown(bool *warned, const char *field, int value, const char *treated_as);

/* 0 for what is no port: more than 65535. */
static inline uint16_t port_decode(uint32_t port)
{
    return port > UINT16_MAX ? 0 : (uint16_t)port;
}

#endif
