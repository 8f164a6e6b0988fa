/* SPDX-License-Identifier: Apache-2.0 */
/* The certificate that an identity has now, or why it has none. The control thread writes, workers read. */
#ifndef PROXY_IDENTITY_CURRENT_CERTIFICATE_H
#define PROXY_IDENTITY_CURRENT_CERTIFICATE_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proxy/tls/tls_context.h"

struct current_certificate {
    pthread_mutex_t lock;        /* guards what follows */
    struct tls_context *context; /* NULL: none */
    int64_t received_at;         /* wall seconds; of the context */
    bool has_failed;             /* waiting for the CA will not help */
    char failure[240];           /* of the last one, by its name; "" after a success */
};

/* Zeroed before. */
void current_certificate_init(struct current_certificate *current);
/* No thread uses it any more; gives its context back. */
void current_certificate_destroy(struct current_certificate *current);

/* Any thread. A reference for the caller, or NULL while there is none that is good by the wall clock. */
struct tls_context *current_certificate_get(struct current_certificate *current);
/* Any thread. There is none, and waiting will not bring one soon. text: the last failure in any case. */
bool current_certificate_has_failed(struct current_certificate *current, char *text, size_t size);

/* Control thread, as all that follows. Takes the reference; NULL: there is none any more. */
void current_certificate_set(struct current_certificate *current, struct tls_context *context);
/* Whether there is one that is good by the wall clock. */
bool current_certificate_usable(const struct current_certificate *current);
/* Milliseconds to the end of the one that there is; 0 if that has come. */
uint64_t current_certificate_time_left(const struct current_certificate *current);
/* A request has failed; failure: why, copied; has_failed: waiting will not help.
 * The context stays. */
void current_certificate_failed(struct current_certificate *current, bool has_failed, const char *failure);
/* The CA has answered as it should. */
void current_certificate_succeeded(struct current_certificate *current);

#endif
