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
    size_t len, size, wanted, max;
};

typedef void (*grpc_reader_fn)(void *data, const uint8_t *message, size_t len);

/* Calls each() for every message that is complete. 0, -EMSGSIZE (longer than max), -EBADMSG (compressed),
 * -ENOMEM. stop: checked between messages. */
int grpc_reader_take(struct grpc_reader *reader, const uint8_t *data, size_t len, grpc_reader_fn each,
                     void *data_, const bool *stop);
/* A message has begun and is not complete. */
bool grpc_reader_partial(const struct grpc_reader *reader);
void grpc_reader_clear(struct grpc_reader *reader);

/* Messages that wait to be sent. */
struct grpc_writer {
    struct grpc_chunk *first, **last;
    size_t queued;
    bool ended; /* nothing follows what is queued */
};

void grpc_writer_init(struct grpc_writer *writer);
int grpc_writer_put(struct grpc_writer *writer, const uint8_t *message, size_t len);
/* Copies up to size bytes out. */
size_t grpc_writer_get(struct grpc_writer *writer, uint8_t *buf, size_t size);
void grpc_writer_clear(struct grpc_writer *writer);

#endif
