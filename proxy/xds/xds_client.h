/* SPDX-License-Identifier: Apache-2.0 */
/* Delta xDS client (contract 1.6 and 1.7): feeds struct state, keeps what it has while the control plane is
 * away. Control thread. */
#ifndef PROXY_XDS_XDS_CLIENT_H
#define PROXY_XDS_XDS_CLIENT_H

#include <cjson/cJSON.h>
#include <stdbool.h>
#include <stdio.h>

#include "lib/loop.h"
#include "proxy/state/state.h"

struct on_demand;
struct xds_client;

struct xds_config {
    const char *address;        /* "https://host:port" ("http://" for plaintext); "" : no control plane */
    const char *roots;          /* a path (read again at each connect), literal PEM, or "SYSTEM" */
    const char *alternate_host; /* or NULL */
    const char *auth_token;     /* path (read again for each stream) or literal; "": none; NULL: not given */
    const char *token_file;     /* not given: this one is read if it is there; or NULL */
    const cJSON *metadata;      /* of the node, for the control plane; the environment's comes over it */
    const char *cluster_id;
    const char *instance_ip, *pod_name, *pod_namespace, *node_name;
    size_t request_max;                /* bytes of a stream's first requests */
    unsigned long settle_milliseconds; /* see xds_sweep.h */
    unsigned stall_milliseconds;       /* see grpc.h */
    struct on_demand *on_demand;       /* NULL: every address is subscribed to */
    unsigned long idle;                /* milliseconds: of its keys */
    struct state *state;
    /* Called on the loop's thread, once: each wildcard type has been acked. */
    void (*ready)(void *data);
    void *data;
};

/* Connects, and again whenever that was in vain or is over. config is copied, its texts must live as long. 0,
 * -EINVAL for an address that is none, or -ENOMEM. */
int xds_client_new(struct loop *loop, const struct xds_config *config, struct xds_client **ret);
void xds_client_free(struct xds_client **client);
/* Whether there is a stream now. */
bool xds_client_connected(const struct xds_client *client);
/* Whether ready() has been called. */
bool xds_client_ready(const struct xds_client *client);
/* istio_xds_* families. */
void xds_client_write_metrics(const struct xds_client *client, FILE *out);

#endif
