/* SPDX-License-Identifier: Apache-2.0 */
/*
 * HTTPS to the Kubernetes API server, on the loop. Nothing blocks. The token is read from its file for each
 * request and the CA's certificate for each connection: both rotate.
 */
#ifndef AGENT_KUBERNETES_KUBE_HTTP_H
#define AGENT_KUBERNETES_KUBE_HTTP_H

#include <stdbool.h>
#include <stddef.h>

#include "lib/loop.h"

#define KUBE_URL_MAX     2048        /* bytes with the NUL */
#define KUBE_TOKEN_MAX   (16 * 1024) /* bytes */
#define KUBE_DEADLINE_MS 15000       /* of a request that asks for no other */

struct kube_client;
struct kube_request;

struct kube_client_config {
    const char *server;     /* "https://10.96.0.1:443" */
    const char *ca_file;    /* PEM */
    const char *token_file; /* NULL: none is sent */
};

struct kube_reply {
    int result;       /* 0, or -errno: there is no whole answer */
    int status;       /* of HTTP; 0 if result is not */
    const char *body; /* with a NUL behind it; of a stream only what an error status came with */
    size_t len;
    const char *error; /* words for the log if result is not 0 */
};

/* Called on the loop's thread with each part of a streamed answer with status 200; the first one is empty and
 * tells that it has begun. The request may be cancelled inside. */
typedef void (*kube_part_fn)(void *data, const char *bytes, size_t len);
/* Called once on the loop's thread, as the last event of a request; it is gone then. */
typedef void (*kube_done_fn)(void *data, const struct kube_reply *reply);

struct kube_call {
    const char *method; /* NULL: GET */
    const char *path;   /* with the query, encoded */
    const char *content_type, *body;
    size_t body_max;   /* bytes of the answer; more is an error (-EFBIG) */
    unsigned deadline; /* milliseconds; 0: KUBE_DEADLINE_MS */
    kube_part_fn part; /* NULL: the answer comes as a whole */
    kube_done_fn done;
    void *data;
};

/* config's texts are copied. 0, -EINVAL (not an https URL), -ENOMEM. */
int kube_client_new(struct loop *loop, const struct kube_client_config *config, struct kube_client **ret);
/* Cancels what is under way. */
void kube_client_free(struct kube_client **client);

/* The server's URL, never NULL; the client's. */
const char *kube_client_server(const struct kube_client *client);

/* 0 or -ENOMEM; everything else is told by done, never from inside this function. */
int kube_send(struct kube_client *client, const struct kube_call *call, struct kube_request **ret);
/* No event follows. Harmless with NULL in it; sets it to NULL. */
void kube_cancel(struct kube_request **request);

/* Appends text as a query's value: letters, digits and "-._~" as they are. -ENAMETOOLONG. */
int kube_append_encoded(char *url, size_t size, const char *text);

/* Milliseconds before try number tries + 1: 500 and twice as long each time up to 30 s, with up to a half
 * taken off at random, so that the nodes of a cluster do not come all at once. */
unsigned kube_backoff(unsigned tries);

#endif
