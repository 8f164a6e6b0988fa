/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The protobuf wire format, for the two messages that are too large to unpack whole: a response of the
 * control plane, walked resource by resource, and the first request, which names everything that is held.
 * And for what a proxy tells its successor (bruma/handover.h).
 */
#ifndef PROXY_WIRE_WIRE_H
#define PROXY_WIRE_WIRE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum wire_type { WIRE_VARINT = 0, WIRE_FIXED64 = 1, WIRE_BYTES = 2, WIRE_FIXED32 = 5 };

struct wire_field {
    uint32_t number;
    enum wire_type type;
    uint64_t value;       /* of a varint */
    const uint8_t *bytes; /* of bytes, strings and messages; points into the input */
    size_t len;
};

struct wire_reader {
    const uint8_t *at, *end;
};

/* Reads len bytes of data, which must outlive it; NULL, as of a field that has none, is nothing to read. */
static inline struct wire_reader wire_reader(const uint8_t *data, size_t len)
{
    return (struct wire_reader){data, data ? data + len : NULL};
}

/* 1: *ret is the next field, 0: the end, -EBADMSG: cut off or malformed (groups too). */
int wire_next(struct wire_reader *reader, struct wire_field *ret);

/* The number of a field, or -EBADMSG: it is none, or larger than max. 0 and *ret is written. */
int wire_take_number(const struct wire_field *field, uint64_t max, uint64_t *ret);
/* The same for a flag, which is 0 or 1. */
int wire_take_flag(const struct wire_field *field, bool *ret);

/* A number below zero as a varint, as protobuf's sint64 has it. */
static inline uint64_t wire_from_signed(int64_t value)
{
    return (uint64_t)value << 1 ^ (uint64_t)(value >> 63);
}

/* The number below zero, or above, that wire_from_signed() has made such a varint of. */
static inline int64_t wire_to_signed(uint64_t value)
{
    return (int64_t)(value >> 1) ^ -(int64_t)(value & 1);
}

/* Zeroed is empty. Grows as it is written. After the first failed allocation nothing more is written, and
 * failed is true. */
struct wire_writer {
    uint8_t *data;
    size_t len, size;
    bool failed;
    bool secret; /* set at first: what it has held is wiped before it is freed */
};

/* So many more bytes are about to be put: it grows but once for them. */
void wire_writer_reserve(struct wire_writer *writer, size_t bytes);
/* Each put appends one field. */
void wire_put_varint(struct wire_writer *writer, uint32_t field, uint64_t value);
void wire_put_flag(struct wire_writer *writer, uint32_t field, bool value); /* false writes nothing */
void wire_put_double(struct wire_writer *writer, uint32_t field, double value);
void wire_put_bytes(struct wire_writer *writer, uint32_t field, const void *data, size_t len);
void wire_put_string(struct wire_writer *writer, uint32_t field,
                     const char *text); /* NULL or "" writes nothing */
/* Puts what was written to part as one field, and empties part. */
void wire_put_message(struct wire_writer *writer, uint32_t field, struct wire_writer *part);
/* map<string, string> entry; an empty value is written. */
void wire_put_entry(struct wire_writer *writer, uint32_t field, const char *key, size_t key_len,
                    const char *value, size_t value_len);
void wire_writer_clear(struct wire_writer *writer);

#endif
