/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A gRPC client over HTTP/2 (nghttp2) over TLS (OpenSSL), on a struct loop, and what both sides share (the
 * agent's server: agent/control_plane/grpc_server.h). Messages are raw protobuf bytes; no message
 * compression. Everything runs on the loop's thread; no function blocks. A call or channel may be closed
 * inside any callback.
 */
#ifndef LIB_GRPC_H
#define LIB_GRPC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "lib/loop.h"

enum grpc_status {
    GRPC_OK = 0,
    GRPC_CANCELLED = 1,
    GRPC_UNKNOWN = 2,
    GRPC_INVALID_ARGUMENT = 3,
    GRPC_DEADLINE_EXCEEDED = 4,
    GRPC_NOT_FOUND = 5,
    GRPC_PERMISSION_DENIED = 7,
    GRPC_RESOURCE_EXHAUSTED = 8,
    GRPC_ABORTED = 10,
    GRPC_UNIMPLEMENTED = 12,
    GRPC_INTERNAL = 13,
    GRPC_UNAVAILABLE = 14,
    GRPC_UNAUTHENTICATED = 16,
};

struct grpc_header {
    const char *name; /* lower case */
    const char *value;
};

struct grpc_channel;
struct grpc_call;

struct grpc_channel_config {
    const char *host; /* name or address: SNI, :authority and the name that the certificate must carry */
    uint16_t port;
    const char *unix_path; /* of a socket to connect to instead of host and port, or NULL; then without TLS */
    const char *alternate_host; /* accepted as the certificate's name too, or NULL */
    const char *roots_pem;      /* PEM text of the trusted roots; NULL: the system's */
    bool plaintext;             /* no TLS at all (istiod's port 15010) */
    bool secret;                /* what the server sends is wiped from the buffers that it came through */
    size_t max_message; /* bytes of one received message; more ends the call with RESOURCE_EXHAUSTED */
    /* A call that owes or is owed something, and of which nothing has moved for so long, ends with ABORTED
     * and GRPC_STALLED; 0: never. */
    unsigned stall_milliseconds;
    /* Between one PING and the next; 0: 30 s. gRPC's servers in Go end a connection on which more of them
     * come than one in five minutes, unless they are told otherwise. */
    unsigned ping_milliseconds;
};

#define GRPC_STALLED "the call makes no progress"

/* The channel closed or could not be opened; its calls have ended before this (UNAVAILABLE). why: for the
 * log. */
typedef void (*grpc_channel_down_fn)(void *data, const char *why);

/* Starts to connect (time limit 5 s; TCP keepalive 300/75/9; HTTP/2 PINGs, 10 s to answer, while a call
 * is open). 0; -EINVAL for a host of no or too long a name, or roots that are none; -ENOMEM; or -errno:
 * down does not come then. config is copied. */
int grpc_channel_open(struct loop *loop, const struct grpc_channel_config *config, grpc_channel_down_fn down,
                      void *data, struct grpc_channel **ret);
void grpc_channel_close(struct grpc_channel **channel);
/* Asks the server for a sign of life. */
void grpc_channel_ping(struct grpc_channel *channel);
/* Grows with everything that comes from the server. */
uint64_t grpc_channel_heard(const struct grpc_channel *channel);

/* Called on the loop's thread. */
struct grpc_call_events {
    /* Called for each message of the server, which is valid during the call. */
    void (*message)(void *data, const uint8_t *message, size_t len);
    /* The last event of a call: status and its text. */
    void (*end)(void *data, enum grpc_status status, const char *text);
};

/* headers beyond the usual ones (authorization ...), copied. deadline_milliseconds 0: none. Calls may be
 * opened before the channel is up. 0; -E2BIG for more than 24 headers; -ENOTCONN where the channel goes
 * down, or its server has said GOAWAY; -ECONNABORTED or -ENOMEM. No event follows then. */
int grpc_call_open(struct grpc_channel *channel, const char *path, const struct grpc_header *headers,
                   size_t headers_len, unsigned deadline_milliseconds, const struct grpc_call_events *events,
                   void *data, struct grpc_call **ret);
/* Queues a copy of one message; last closes our side. 0, -ESHUTDOWN once the call or our side has ended,
 * -EMSGSIZE, or -ENOMEM. */
int grpc_call_send(struct grpc_call *call, const uint8_t *message, size_t len, bool last);
/* Whether the server owes an answer: one that does not come counts as no progress. */
void grpc_call_expect(struct grpc_call *call, bool answer);
/* True while the first part of a message has come and the rest has not. */
bool grpc_call_receiving(const struct grpc_call *call);
/* Resets the call; no event follows. */
void grpc_call_cancel(struct grpc_call **call);

#endif
