/* SPDX-License-Identifier: Apache-2.0 */
/* What the channel and its calls know of each other. */
#ifndef LIB_RPC_GRPC_CLIENT_H
#define LIB_RPC_GRPC_CLIENT_H

#include "lib/rpc/grpc.h"
#include "lib/rpc/grpc_message.h"
#include "lib/rpc/h2_connection.h"

struct grpc_channel {
    struct h2_connection connection;
    struct loop *loop;
    struct list calls;
    SSL_CTX *tls; /* NULL: plaintext */
    char host[256], alternate_host[256], authority[300];
    uint16_t port;
    bool host_is_address;
    size_t max_message;
    unsigned stall;        /* milliseconds, 0: none */
    struct lookup *lookup; /* under way */
    struct loop_watch lookup_watch;
    struct loop_timer lookup_limit;
    struct addrinfo *addresses, *next_address;
    bool ready, dead, draining;           /* draining: the server has said GOAWAY */
    unsigned ping_interval, ping_timeout; /* milliseconds */
    struct loop_timer ping;
    uint64_t ping_sent; /* loop_now(), 0: none whose time to be answered goes on */
    bool ping_answered;
    grpc_channel_down_fn down;
    void *data;
};

/* The session of a fresh connection. 0 or -ENOMEM. */
int grpc_session_new(struct grpc_channel *channel);
/* Submits all calls that were opened before the channel was up. */
void grpc_calls_begin(struct grpc_channel *channel);
/* Ends all calls with UNAVAILABLE. */
void grpc_calls_end(struct grpc_channel *channel, const char *why);
/* Forgets them; no event follows. */
void grpc_calls_drop(struct grpc_channel *channel);

#endif
