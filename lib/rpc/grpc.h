/* SPDX-License-Identifier: Apache-2.0 */
/*
 * gRPC over HTTP/2 (nghttp2) over TLS (OpenSSL), both sides, on a struct loop. Messages are raw protobuf
 * bytes; no message compression. Everything runs on the loop's thread; no function blocks. A call or channel
 * may be closed inside any callback.
 */
#ifndef LIB_GRPC_H
#define LIB_GRPC_H

#include <openssl/ssl.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "lib/addr.h"
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

/* ---- client ---- */

struct grpc_channel;
struct grpc_call;

struct grpc_channel_config {
    const char *host; /* name or address: SNI, :authority and the name that the certificate must carry */
    uint16_t port;
    const char *alternate_host; /* accepted as the certificate's name too, or NULL */
    const char *roots_pem;      /* PEM text of the trusted roots; NULL: the system's */
    bool plaintext;             /* no TLS at all (istiod's port 15010) */
    size_t max_message; /* bytes of one received message; more ends the call with RESOURCE_EXHAUSTED */
    /* A call that owes or is owed something, and of which nothing has moved for so long, ends with ABORTED
     * and GRPC_STALLED; 0: never. */
    unsigned stall_milliseconds;
};

#define GRPC_STALLED "the call makes no progress"

/* The channel closed or could not be opened; its calls have ended before this (UNAVAILABLE). why: for the
 * log. */
typedef void (*grpc_channel_down_fn)(void *data, const char *why);

/* Starts to connect (time limit 5 s; TCP keepalive 300/75/9; HTTP/2 PING every 30 s, 10 s to answer, while a
 * call is open). */
int grpc_channel_open(struct loop *loop, const struct grpc_channel_config *config, grpc_channel_down_fn down,
                      void *data, struct grpc_channel **ret);
void grpc_channel_close(struct grpc_channel **channel);
/* Asks the server for a sign of life. */
void grpc_channel_ping(struct grpc_channel *channel);
/* Grows with everything that comes from the server. */
uint64_t grpc_channel_heard(const struct grpc_channel *channel);

struct grpc_call_events {
    void (*message)(void *data, const uint8_t *message, size_t len);
    /* The last event of a call: status and its text. */
    void (*end)(void *data, enum grpc_status status, const char *text);
};

/* headers beyond the usual ones (authorization ...). deadline_milliseconds 0: none. Calls may be opened
 * before the channel is up. */
int grpc_call_open(struct grpc_channel *channel, const char *path, const struct grpc_header *headers,
                   size_t headers_len, unsigned deadline_milliseconds, const struct grpc_call_events *events,
                   void *data, struct grpc_call **ret);
/* Queues one message; last closes our side. */
int grpc_call_send(struct grpc_call *call, const uint8_t *message, size_t len, bool last);
/* Whether the server owes an answer: one that does not come counts as no progress. */
void grpc_call_expect(struct grpc_call *call, bool answer);
/* True while the first part of a message has come and the rest has not. */
bool grpc_call_receiving(const struct grpc_call *call);
/* Resets the call; no event follows. */
void grpc_call_cancel(struct grpc_call **call);

/* ---- server ---- */

struct grpc_server;
struct grpc_request; /* one call seen from the server */

struct grpc_service {
    const char *path; /* "/package.Service/Method" */
    /* A call began. Return GRPC_OK to go on, anything else ends it with that status and text. *call_data is
     * handed to the other two. */
    enum grpc_status (*begin)(void *data, struct grpc_request *request, void **call_data, const char **text);
    void (*message)(void *call_data, struct grpc_request *request, const uint8_t *message, size_t len);
    /* The call ended for any reason, also by grpc_request_end(); call_data can be freed. */
    void (*end)(void *call_data);
};

/* Listens on host:port (an address) with this TLS context, or in plaintext if it is NULL. services is kept by
 * pointer. connections, per_source: limits, 0: the usual ones; who goes when there are too many is said in
 * crowd.h, and who has a call that begin() has accepted is not among them. */
int grpc_server_open(struct loop *loop, const struct endpoint *listen, SSL_CTX *tls,
                     const struct grpc_service *services, size_t services_len, void *data,
                     unsigned connections, unsigned per_source, struct grpc_server **ret);
/* Connections that were closed or refused because there were too many. */
uint64_t grpc_server_turned_away(const struct grpc_server *server);
void grpc_server_close(struct grpc_server **server);
/* Calls of which nothing moves for so long, although the client owes a message or does not take ours, are
 * reset (15 s steps, or finer if it is less). 0, the default: never. */
void grpc_server_set_stall(struct grpc_server *server, unsigned milliseconds);
/* Calls that were reset so. */
uint64_t grpc_server_stalls(const struct grpc_server *server);

/* Value of a request header (lower-case name), or NULL. */
const char *grpc_request_header(const struct grpc_request *request, const char *name);
int grpc_request_send(struct grpc_request *request, const uint8_t *message, size_t len);
/* Bytes queued and not sent yet: for back-pressure. */
size_t grpc_request_queued(const struct grpc_request *request);
void grpc_request_end(struct grpc_request *request, enum grpc_status status, const char *text);

#endif
