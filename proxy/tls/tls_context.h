/* SPDX-License-Identifier: Apache-2.0 */
/* One certificate of one identity, ready for use by all workers: made by the control thread, read-only
 * afterwards. */
#ifndef PROXY_TLS_TLS_CONTEXT_H
#define PROXY_TLS_TLS_CONTEXT_H

#include <openssl/ssl.h>
#include <stdbool.h>
#include <stddef.h>

#include "lib/spiffe.h"
#include "proxy/tls/bundles.h"

struct tls_context {
    int references; /* atomic */
    SSL_CTX *client, *server;
    X509_STORE *roots;
    char identity[SPIFFE_MAX];
    char trust_domain[SPIFFE_MAX];
    STACK_OF(X509) * chain; /* of the own certificate up to a root, as a peer with these roots verifies it as
                               a client's and as a server's, whatever the time; NULL: it would not */
    unsigned char roots_digest[32]; /* of the roots, in the order in which they were given */
    unsigned char trust_digest[32]; /* of the roots, the federated bundles, and what they are good for */
    unsigned char leaf_digest[32];  /* of the own certificate */
    struct bundles *federated;      /* by which peers of other trust domains are verified; NULL: none */
    bool own_domain_only;           /* the roots are good for the own trust domain (and its aliases) alone */
    int64_t not_before, not_after;  /* wall seconds: when all of the own chain is good */
    uint64_t serial;                /* grows with each context made in this process: part of the pool's key */
};

/* chain_pem: leaf and intermediates, one PEM string each. roots_pem: any number of certificates. *ret has one
 * reference. 0, -EINVAL with what is wrong in error, or -ENOMEM. */
int tls_context_new(const char *identity, EVP_PKEY *key, const char *const *chain_pem, size_t chain_len,
                    const char *const *roots_pem, size_t roots_len, struct tls_context **ret, char *error,
                    size_t error_size);
/* Before others know it: which other trust domains it trusts, of which it takes a reference (NULL: none), and
 * whether its own roots may vouch for peers of a trust domain that is neither its own nor among these, as
 * those of a mesh's CA do. 0 or -ENOMEM: it must not be used. */
int tls_context_federate(struct tls_context *context, struct bundles *federated, bool own_domain_only);
/* The bundle by which peers of the trust domain are verified; NULL: by the own roots. Lives as long as the
 * context. */
const struct bundle *tls_context_bundle(const struct tls_context *context, const char *trust_domain,
                                        size_t len);
/* One more reference, of any thread; returns context, never NULL. */
struct tls_context *tls_context_ref(struct tls_context *context);
/* Gives one back, on any thread; NULL is fine. */
void tls_context_unref(struct tls_context *context);

#endif
