/* SPDX-License-Identifier: Apache-2.0 */
/* What identity.c and identity_store.c keep. Control thread, but for struct current_certificate. */
#ifndef PROXY_IDENTITY_IDENTITY_STORE_H
#define PROXY_IDENTITY_IDENTITY_STORE_H

#include "proxy/identity/bundle_directory.h"
#include "proxy/identity/current_certificate.h"
#include "proxy/identity/identity.h"
#include "proxy/identity/identity_source.h"

struct identity {
    struct list node;  /* in store.all */
    struct list queue; /* in source->queues[priority], while it waits for its turn */
    struct identity_store *store;
    struct identity_source *source;
    int references;
    char *uri;
    enum identity_priority priority;
    struct loop_timer timer; /* refresh or retry */
    uint64_t backoff, last_request;
    uint64_t failing_since; /* loop time of the first request in a row that failed */
    unsigned failures;      /* in a row */
    bool waiting, asking;   /* for its turn; a request is under way */
    void *asked;            /* the source's */
    char error[200];        /* of the last failure, "" after a success */
    struct issued issued;   /* what the context was made of */
    struct current_certificate current;
};

struct identity_store {
    struct loop *loop;
    struct identity_config config;
    struct identity_source *sources[SOURCES]; /* NULL: no trust domain's */
    struct bundle_directory bundles;
    struct list all;
};

/* NULL: nobody wants it; else it lives until the last identity_put(). */
struct identity *identity_find(struct identity_store *store, const char *uri);
/* The certificate is the same; whom it trusts is not. */
void identity_bundles_changed(struct identity *identity);
/* Nobody wants it any more. */
void identity_free(struct identity *identity);

#endif
