/* SPDX-License-Identifier: Apache-2.0 */
/* gRPC's framing of messages: a flag, a length, the bytes. */
#ifndef LIB_RPC_GRPC_MESSAGE_H
#define LIB_RPC_GRPC_MESSAGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define GRPC_PREFIX 5

/* Puts received bytes together again. Memory grows with what arrived, not with what a length promises. */
struct grpc_reader {
    uint8_t prefix[GRPC_PREFIX];
    size_t prefix_len;
    uint8_t *message;
    size_t len, size, wanted, max; /* bytes: there, allocated, promised; max is set by the owner */
    bool secret;                   /* set by the owner: what it has held is wiped before it is freed */
};

/* One message, valid during the call, from inside grpc_reader_take(). */
typedef void (*grpc_reader_fn)(void *data, const uint8_t *message, size_t len);

/* Calls each() for every message that is complete. 0, -EMSGSIZE (longer than max), -EBADMSG
 * (compressed), -ENOMEM. stop: looked at after each message; nothing more is taken once it is true. */
int grpc_reader_take(struct grpc_reader *reader, const uint8_t *data, size_t len, grpc_reader_fn each,
                     void *data_, const bool *stop);
/* Whether a message has begun and is not complete. */
bool grpc_reader_partial(const struct grpc_reader *reader);
/* Frees what has come of a message; the reader may be used again. */
void grpc_reader_clear(struct grpc_reader *reader);

/* Messages that wait to be sent. */
struct grpc_writer {
    struct grpc_chunk *first, **last;
    size_t queued; /* bytes, with the prefixes */
    bool ended;    /* nothing follows what is queued */
};

/* Makes it empty, whatever it was. */
void grpc_writer_init(struct grpc_writer *writer);
/* Copies a message behind the others. 0, -ENOMEM, or -EMSGSIZE beyond 32 bits of length. */
int grpc_writer_put(struct grpc_writer *writer, const uint8_t *message, size_t len);
/* Moves up to size bytes out; returns how many, 0 if nothing waits. */
size_t grpc_writer_get(struct grpc_writer *writer, uint8_t *buf, size_t size);
/* Drops what waits. */
void grpc_writer_clear(struct grpc_writer *writer);

#endif
