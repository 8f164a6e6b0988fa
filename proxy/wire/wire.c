/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/wire/wire.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static int get_varint(struct wire_reader *r, uint64_t *ret)
{
    uint64_t value = 0;

    for (unsigned shift = 0; shift < 64 && r->at < r->end; shift += 7) {
        uint8_t byte = *r->at++;

        value |= (uint64_t)(byte & 0x7f) << shift;
        if (!(byte & 0x80)) {
            *ret = value;
            return 0;
        }
    }
    return -EBADMSG;
}

int wire_next(struct wire_reader *r, struct wire_field *ret)
{
    struct wire_field f = {};
    uint64_t tag, len;

    if (r->at == r->end)
        return 0;
    if (get_varint(r, &tag) < 0 || tag >> 3 == 0 || tag >> 3 > 0x1fffffff)
        return -EBADMSG;
    f.number = (uint32_t)(tag >> 3);
    f.type = (enum wire_type)(tag & 7);
    switch (f.type) {
    case WIRE_VARINT:
        if (get_varint(r, &f.value) < 0)
            return -EBADMSG;
        break;
    case WIRE_BYTES:
        if (get_varint(r, &len) < 0 || len > (uint64_t)(r->end - r->at))
            return -EBADMSG;
        f.bytes = r->at;
        f.len = (size_t)len;
        r->at += len;
        break;
    case WIRE_FIXED64:
    case WIRE_FIXED32:
        f.len = f.type == WIRE_FIXED64 ? 8 : 4;
        if ((size_t)(r->end - r->at) < f.len)
            return -EBADMSG;
        f.bytes = r->at;
        r->at += f.len;
        break;
    default:
        return -EBADMSG;
    }
    *ret = f;
    return 1;
}

int wire_take_number(const struct wire_field *field, uint64_t max, uint64_t *ret)
{
    if (field->type != WIRE_VARINT || field->value > max)
        return -EBADMSG;
    *ret = field->value;
    return 0;
}

int wire_take_flag(const struct wire_field *field, bool *ret)
{
    uint64_t value;
    int r = wire_take_number(field, 1, &value);

    if (r == 0)
        *ret = value;
    return r;
}

/* realloc() may leave a copy behind. */
static uint8_t *grow_secret(const struct wire_writer *w, size_t size)
{
    uint8_t *grown = malloc(size);

    if (!grown)
        return NULL;
    if (w->len)
        memcpy(grown, w->data, w->len);
    if (w->data)
        explicit_bzero(w->data, w->size);
    free(w->data);
    return grown;
}

static bool grow(struct wire_writer *w, size_t size)
{
    uint8_t *grown = w->secret ? grow_secret(w, size) : realloc(w->data, size);

    if (!grown) {
        w->failed = true;
        return false;
    }
    w->data = grown;
    w->size = size;
    return true;
}

static uint8_t *room(struct wire_writer *w, size_t more)
{
    if (w->failed || (w->len + more > w->size && !grow(w, (w->len + more) * 2)))
        return NULL;
    return w->data + w->len;
}

void wire_writer_reserve(struct wire_writer *w, size_t bytes)
{
    if (!w->failed && w->len + bytes > w->size)
        grow(w, w->len + bytes);
}

static void put_raw_varint(struct wire_writer *w, uint64_t value)
{
    uint8_t *at = room(w, 10);

    if (!at)
        return;
    do {
        *at++ = (uint8_t)((value & 0x7f) | (value > 0x7f ? 0x80 : 0));
        value >>= 7;
    } while (value);
    w->len = (size_t)(at - w->data);
}

static void put_raw(struct wire_writer *w, const void *data, size_t len)
{
    uint8_t *at = room(w, len);

    if (!at || !len)
        return;
    memcpy(at, data, len);
    w->len += len;
}

void wire_put_varint(struct wire_writer *w, uint32_t field, uint64_t value)
{
    put_raw_varint(w, (uint64_t)field << 3 | WIRE_VARINT);
    put_raw_varint(w, value);
}

void wire_put_flag(struct wire_writer *w, uint32_t field, bool value)
{
    if (value)
        wire_put_varint(w, field, 1);
}

void wire_put_double(struct wire_writer *w, uint32_t field, double value)
{
    uint64_t bits;
    uint8_t raw[8];

    memcpy(&bits, &value, sizeof(bits));
    for (int i = 0; i < 8; i++)
        raw[i] = (uint8_t)(bits >> (8 * i));
    put_raw_varint(w, (uint64_t)field << 3 | WIRE_FIXED64);
    put_raw(w, raw, sizeof(raw));
}

void wire_put_bytes(struct wire_writer *w, uint32_t field, const void *data, size_t len)
{
    put_raw_varint(w, (uint64_t)field << 3 | WIRE_BYTES);
    put_raw_varint(w, len);
    put_raw(w, data, len);
}

void wire_put_string(struct wire_writer *w, uint32_t field, const char *text)
{
    if (text && *text)
        wire_put_bytes(w, field, text, strlen(text));
}

void wire_put_message(struct wire_writer *w, uint32_t field, struct wire_writer *part)
{
    if (part->failed)
        w->failed = true;
    else
        wire_put_bytes(w, field, part->data, part->len);
    wire_writer_clear(part);
}

static size_t varint_len(uint64_t value)
{
    size_t n = 1;

    for (; value > 0x7f; value >>= 7)
        n++;
    return n;
}

void wire_put_entry(struct wire_writer *w, uint32_t field, const char *key, size_t key_len, const char *value,
                    size_t value_len)
{
    put_raw_varint(w, (uint64_t)field << 3 | WIRE_BYTES);
    put_raw_varint(w, 2 + varint_len(key_len) + key_len + varint_len(value_len) + value_len);
    wire_put_bytes(w, 1, key, key_len);
    wire_put_bytes(w, 2, value, value_len);
}

void wire_writer_clear(struct wire_writer *w)
{
    if (w->secret && w->data)
        explicit_bzero(w->data, w->size);
    free(w->data);
    memset(w, 0, sizeof(*w));
}
