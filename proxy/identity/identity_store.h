/* SPDX-License-Identifier: Apache-2.0 */
/* What identity.c keeps. Control thread, but for struct current_certificate. */
#ifndef PROXY_IDENTITY_IDENTITY_STORE_H
#define PROXY_IDENTITY_IDENTITY_STORE_H

#include "proxy/identity/ca_client.h"
#include "proxy/identity/ca_roots.h"
#include "proxy/identity/certificate.h"
#include "proxy/identity/current_certificate.h"
#include "proxy/identity/identity.h"

struct identity {
    struct list node;  /* in store.all */
    struct list queue; /* in store.queues[priority], while it waits for its turn */
    struct identity_store *store;
    int references;
    char *uri;
    enum identity_priority priority;
    struct loop_timer timer; /* refresh or retry */
    uint64_t backoff, last_request;
    uint64_t failing_since; /* loop time of the first request in a row that failed */
    unsigned failures;      /* in a row */
    bool waiting;
    struct grpc_call *call; /* under way */
    EVP_PKEY *key;          /* of that call */
    bool answered;
    char error[200]; /* of the last failure, "" after a success */
    struct certificate certificate;
    struct current_certificate current;
};

struct identity_store {
    struct loop *loop;
    struct identity_config config;
    struct ca_client ca;
    struct ca_roots roots;
    struct list all, queues[3];
};

#endif
