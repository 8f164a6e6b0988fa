/* SPDX-License-Identifier: Apache-2.0 */
/* One certificate of one identity, ready for use by all workers: made by the control thread, read-only
 * afterwards. */
#ifndef PROXY_TLS_TLS_CONTEXT_H
#define PROXY_TLS_TLS_CONTEXT_H

#include <openssl/ssl.h>
#include <stddef.h>

#include "lib/spiffe.h"

struct tls_context {
    int references; /* atomic */
    SSL_CTX *client, *server;
    X509_STORE *roots;
    char identity[SPIFFE_MAX];
    char trust_domain[SPIFFE_MAX];
    STACK_OF(X509) * chain; /* of the own certificate up to a root, as a peer with these roots verifies it as
                               a client's and as a server's, whatever the time; NULL: it would not */
    unsigned char roots_digest[32]; /* of the roots, in the order in which they were given */
    unsigned char leaf_digest[32];  /* of the own certificate */
    int64_t not_before, not_after;  /* wall seconds: when all of the own chain is good */
    uint64_t serial;                /* grows with each context made in this process: part of the pool's key */
};

/* chain_pem: leaf and intermediates, one PEM string each. roots_pem: any number of certificates. *ret has one
 * reference. 0, -EINVAL with what is wrong in error, or -ENOMEM. */
int tls_context_new(const char *identity, EVP_PKEY *key, const char *const *chain_pem, size_t chain_len,
                    const char *const *roots_pem, size_t roots_len, struct tls_context **ret, char *error,
                    size_t error_size);
/* One more reference, of any thread; returns context, never NULL. */
struct tls_context *tls_context_ref(struct tls_context *context);
/* Gives one back, on any thread; NULL is fine. */
void tls_context_unref(struct tls_context *context);

#endif
