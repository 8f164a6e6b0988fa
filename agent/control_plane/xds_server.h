/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Delta ADS for the proxies of this node: the types Address and Authorization. Holds what is to be served;
 * each stream gets what has changed for it, in responses of a bounded size, as fast as it takes them.
 */
#ifndef AGENT_CONTROL_PLANE_XDS_SERVER_H
#define AGENT_CONTROL_PLANE_XDS_SERVER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "agent/control_plane/xds_resources.h"
#include "lib/loop.h"
#include "lib/rpc/grpc.h"

#define XDS_PATH               "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources"
#define XDS_TYPE_ADDRESS       "type.googleapis.com/istio.workload.Address"
#define XDS_TYPE_AUTHORIZATION "type.googleapis.com/istio.security.Authorization"

#define XDS_RESPONSE_RESOURCES 500u           /* in one response */
#define XDS_RESPONSE_BYTES     (1024u * 1024) /* of resources in one response, unless a single one is larger */
#define XDS_QUEUED_BYTES       (4u * 1024 * 1024) /* with more unsent the stream waits */
#define XDS_SUBSCRIBED_NAMES   100000u            /* by one stream */

/* In the order in which changes are sent: a policy is there before a workload names it. */
enum xds_type { XDS_AUTHORIZATION, XDS_ADDRESS, XDS_TYPES };

struct xds_server;
struct xds_stream;

/* How the server talks to a client; grpc.h, or a test. */
struct xds_transport {
    /* All three are called on the loop's thread. Queues a copy of one message: 0 or -errno. */
    int (*send)(void *request, const uint8_t *message, size_t len);
    /* How many bytes the client has not taken yet; called before each message. */
    size_t (*queued)(void *request);
    /* Ends the stream, from inside a function of this header; its owner closes the stream. */
    void (*end)(void *request, enum grpc_status status, const char *text);
};
extern const struct xds_transport xds_transport_grpc; /* request: struct grpc_request */

/* An empty server; transport is kept by pointer. 0 or -ENOMEM. */
int xds_server_new(struct loop *loop, const struct xds_transport *transport, struct xds_server **ret);
/* All streams have ended before. */
void xds_server_free(struct xds_server **server);

/* The store of that type, never NULL; it lives as long as the server. */
struct xds_resources *xds_server_resources(struct xds_server *server, enum xds_type type);
/* Until the first call nothing is answered: clients keep what they know rather than hear of an empty mesh. */
void xds_server_ready(struct xds_server *server);
/* To be called after changes of resources; sends soon. */
void xds_server_changed(struct xds_server *server);
/* Sends now. */
void xds_server_push(struct xds_server *server);
/* How many streams are open. */
unsigned xds_server_streams(const struct xds_server *server);
/* Responses that clients have refused, in whole or in part. */
uint64_t xds_server_refused(const struct xds_server *server);

/* A client has come; request is for the transport alone. 0 or -ENOMEM. */
int xds_stream_open(struct xds_server *server, void *request, struct xds_stream **ret);
/* A request of the client (DeltaDiscoveryRequest). May end the stream by transport->end(). */
void xds_stream_message(struct xds_stream *stream, const uint8_t *message, size_t len);
/* The stream is over, and freed. */
void xds_stream_close(struct xds_stream *stream);

#endif
