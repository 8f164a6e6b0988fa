/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A gRPC server over HTTP/2 over TLS on a struct loop: the other side of lib/rpc/grpc.h, under the same
 * rules. A request may be ended inside any callback.
 */
#ifndef AGENT_CONTROL_PLANE_GRPC_SERVER_H
#define AGENT_CONTROL_PLANE_GRPC_SERVER_H

#include <openssl/ssl.h>
#include <stddef.h>
#include <stdint.h>

#include "lib/addr.h"
#include "lib/loop.h"
#include "lib/rpc/grpc.h"

struct grpc_server;
struct grpc_request; /* one call seen from the server */

/* A method and what answers it. Functions are called on the loop's thread. */
struct grpc_service {
    const char *path; /* "/package.Service/Method" */
    /* Called when a call began. Return GRPC_OK to go on, anything else ends it with that status and text.
     * *call_data is handed to the other two. */
    enum grpc_status (*begin)(void *data, struct grpc_request *request, void **call_data, const char **text);
    /* Called for each message of the client, which is valid during the call. */
    void (*message)(void *call_data, struct grpc_request *request, const uint8_t *message, size_t len);
    /* The call ended for any reason, also by grpc_request_end(); call_data can be freed. */
    void (*end)(void *call_data);
};

/* Listens on host:port (an address) with this TLS context, or in plaintext if it is NULL. services is kept by
 * pointer. connections, per_source: limits, 0: the usual ones; who goes when there are too many is said in
 * client_limits.h, and who has a call that begin() has accepted is not among them. 0 or -errno. */
int grpc_server_open(struct loop *loop, const struct endpoint *listen, SSL_CTX *tls,
                     const struct grpc_service *services, size_t services_len, void *data,
                     unsigned connections, unsigned per_source, struct grpc_server **ret);
/* How many connections were closed or refused because there were too many. */
uint64_t grpc_server_turned_away(const struct grpc_server *server);
void grpc_server_close(struct grpc_server **server);
/* Calls of which nothing moves for so long, although the client owes a message or does not take ours, are
 * reset (15 s steps, or finer if it is less). 0, the default: never. */
void grpc_server_set_stall(struct grpc_server *server, unsigned milliseconds);
/* How many calls were reset so. */
uint64_t grpc_server_stalls(const struct grpc_server *server);

/* Value of a request header (lower-case name), the request's; or NULL. */
const char *grpc_request_header(const struct grpc_request *request, const char *name);
/* Queues a copy of one message. 0, -ESHUTDOWN once the request has ended, -EMSGSIZE, or -ENOMEM. */
int grpc_request_send(struct grpc_request *request, const uint8_t *message, size_t len);
/* How many bytes are queued and not sent yet: for back-pressure. */
size_t grpc_request_queued(const struct grpc_request *request);
/* Ends it once what is queued has gone; text may be NULL. Harmless if it has ended. */
void grpc_request_end(struct grpc_request *request, enum grpc_status status, const char *text);

#endif
