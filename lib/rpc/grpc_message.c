/* SPDX-License-Identifier: Apache-2.0 */
#include "lib/rpc/grpc_message.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct grpc_chunk {
    struct grpc_chunk *next;
    size_t len, offset;
    uint8_t data[];
};

static void drop(const struct grpc_reader *r, uint8_t *message, size_t len)
{
    if (r->secret && message)
        explicit_bzero(message, len);
    free(message);
}

/* realloc() may leave a copy behind. */
static uint8_t *moved(const struct grpc_reader *r, size_t size)
{
    uint8_t *grown = malloc(size);

    if (!grown)
        return NULL;
    if (r->len)
        memcpy(grown, r->message, r->len);
    drop(r, r->message, r->len);
    return grown;
}

static int grow(struct grpc_reader *r, size_t more)
{
    size_t size = r->size ? r->size : 4096;
    uint8_t *grown;

    if (r->len + more <= r->size)
        return 0;
    while (size < r->len + more)
        size *= 2;
    if (size > r->wanted && r->len + more <= r->wanted)
        size = r->wanted;
    grown = r->secret ? moved(r, size) : realloc(r->message, size);
    if (!grown)
        return -ENOMEM;
    r->message = grown;
    r->size = size;
    return 0;
}

static int take_prefix(struct grpc_reader *r, const uint8_t **data, size_t *len)
{
    while (r->prefix_len < GRPC_PREFIX && *len) {
        r->prefix[r->prefix_len++] = **data;
        (*data)++;
        (*len)--;
    }
    if (r->prefix_len < GRPC_PREFIX)
        return 0;
    if (r->prefix[0])
        return -EBADMSG;
    r->wanted =
        (size_t)r->prefix[1] << 24 | (size_t)r->prefix[2] << 16 | (size_t)r->prefix[3] << 8 | r->prefix[4];
    return r->wanted > r->max ? -EMSGSIZE : 0;
}

int grpc_reader_take(struct grpc_reader *r, const uint8_t *data, size_t len, grpc_reader_fn each, void *data_,
                     const bool *stop)
{
    while (len || (r->prefix_len == GRPC_PREFIX && r->len == r->wanted)) {
        size_t n;
        int e = 0;

        if (r->prefix_len < GRPC_PREFIX)
            e = take_prefix(r, &data, &len);
        if (e < 0)
            return e;
        if (r->prefix_len < GRPC_PREFIX)
            return 0;
        n = r->wanted - r->len < len ? r->wanted - r->len : len;
        if (n) {
            e = grow(r, n);
            if (e < 0)
                return e;
            memcpy(r->message + r->len, data, n);
            r->len += n;
            data += n;
            len -= n;
        }
        if (r->len == r->wanted) {
            uint8_t *message = r->message;
            size_t message_len = r->len;

            /* The reader is free for the next message before the callback runs. */
            r->message = NULL;
            r->len = r->size = r->wanted = r->prefix_len = 0;
            each(data_, message, message_len);
            drop(r, message, message_len);
            if (*stop)
                return 0;
        }
    }
    return 0;
}

bool grpc_reader_partial(const struct grpc_reader *r)
{
    return r->prefix_len != 0;
}

void grpc_reader_clear(struct grpc_reader *r)
{
    drop(r, r->message, r->len);
    r->message = NULL;
    r->len = r->size = r->wanted = r->prefix_len = 0;
}

void grpc_writer_init(struct grpc_writer *w)
{
    w->first = NULL;
    w->last = &w->first;
    w->queued = 0;
    w->ended = false;
}

int grpc_writer_put(struct grpc_writer *w, const uint8_t *message, size_t len)
{
    struct grpc_chunk *c;

    if (len > UINT32_MAX)
        return -EMSGSIZE;
    c = malloc(sizeof(*c) + GRPC_PREFIX + len);
    if (!c)
        return -ENOMEM;
    c->next = NULL;
    c->offset = 0;
    c->len = GRPC_PREFIX + len;
    c->data[0] = 0;
    for (int i = 0; i < 4; i++)
        c->data[1 + i] = (uint8_t)(len >> (24 - 8 * i));
    if (len)
        memcpy(c->data + GRPC_PREFIX, message, len);
    *w->last = c;
    w->last = &c->next;
    w->queued += c->len;
    return 0;
}

size_t grpc_writer_get(struct grpc_writer *w, uint8_t *buf, size_t size)
{
    size_t total = 0;

    while (w->first && total < size) {
        struct grpc_chunk *c = w->first;
        size_t n = c->len - c->offset < size - total ? c->len - c->offset : size - total;

        memcpy(buf + total, c->data + c->offset, n);
        c->offset += n;
        total += n;
        if (c->offset == c->len) {
            w->first = c->next;
            if (!w->first)
                w->last = &w->first;
            free(c);
        }
    }
    w->queued -= total;
    return total;
}

void grpc_writer_clear(struct grpc_writer *w)
{
    while (w->first) {
        struct grpc_chunk *c = w->first;

        w->first = c->next;
        free(c);
    }
    w->last = &w->first;
    w->queued = 0;
}
