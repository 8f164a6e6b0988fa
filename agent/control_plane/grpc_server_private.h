/* SPDX-License-Identifier: Apache-2.0 */
/* What the server, its connections and their requests know of each other. */
#ifndef AGENT_CONTROL_PLANE_GRPC_SERVER_PRIVATE_H
#define AGENT_CONTROL_PLANE_GRPC_SERVER_PRIVATE_H

#include "agent/control_plane/grpc_server.h"
#include "lib/accept_rest.h"
#include "lib/rpc/client_limits.h"
#include "lib/rpc/grpc_message.h"
#include "lib/rpc/h2_connection.h"

struct grpc_server {
    struct loop *loop;
    struct loop_watch watch;
    struct accept_rest rest;
    SSL_CTX *tls;
    const struct grpc_service *services;
    size_t services_len;
    void *data;
    struct client_limits clients;
    unsigned stall; /* milliseconds, 0: none */
    uint64_t stalls;
};

struct grpc_client {
    struct h2_connection connection;
    struct limited_client member;
    struct list requests;
    unsigned accepted, accepted_ever; /* calls that a service has begun */
    struct grpc_server *server;
    struct loop_timer check;
    uint64_t idle_since; /* loop_now() */
    unsigned requests_len;
    bool gone;
};

/* A header of a request, as its client sent it. */
struct header_copy {
    struct header_copy *next;
    char *value;
    char name[];
};

struct grpc_request {
    struct list node;
    struct grpc_client *client;
    int32_t id;
    const struct grpc_service *service; /* NULL until begin() has accepted */
    void *call_data;
    struct header_copy *headers;
    size_t header_bytes, headers_len;
    uint64_t moved; /* loop_now() of the last bytes of either side */
    bool too_large, deferred, answered, trailers_sent, done;
    bool heard; /* a whole message */
    struct grpc_reader reader;
    struct grpc_writer writer;
    int status; /* of the end, -1: not ended */
    char text[256];
};

/* The session of a client whose connection is being opened. 0 or -ENOMEM. */
int grpc_server_session_new(struct grpc_client *client);
/* The request's end, whoever it comes from: its service is told. */
void grpc_request_free(struct grpc_request *request);

#endif
