/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Messages of SPIRE's Delegated Identity API (spire.api.agent.delegatedidentity.v1), and of SPIFFE's Workload
 * API, as far as X.509 goes. What is decoded is well formed; whether it is what was wanted is
 * certificate_check()'s. Control thread.
 */
#ifndef PROXY_IDENTITY_SPIRE_MESSAGES_H
#define PROXY_IDENTITY_SPIRE_MESSAGES_H

#include <openssl/evp.h>
#include <stddef.h>
#include <stdint.h>

#include "proxy/identity/certificate.h"
#include "proxy/tls/bundles.h"
#include "proxy/wire/wire.h"

#define SPIRE_BUNDLE_MAX 256 /* certificates of one trust domain's bundle */

/* One identity's own certificate. Zeroed is none; spire_svid_clear(). */
struct spire_svid {
    struct certificate certificate; /* the chain alone: roots and dates are not said */
    EVP_PKEY *key;                  /* NULL: the answer has none of this identity */
    size_t others;                  /* of other identities that the answer has */
    size_t federated_len;
    char *federated[BUNDLES_MAX]; /* trust domains that it is federated with */
};

/* Frees what it has, and empties it. */
void spire_svid_clear(struct spire_svid *svid);

/* SubscribeToX509SVIDsResponse: the first that names the identity. 0 and *ret is the caller's, with or
 * without a key; -EBADMSG, -E2BIG or -ENOMEM with the reason in error. */
int spire_svids_decode(const uint8_t *message, size_t len, const char *identity, struct spire_svid *ret,
                       char *error, size_t error_size);

/* Called for each trust domain of a message. roots: NULL, they cannot be used, and error says why; else the
 * callee's. 0 or -errno, which ends it. */
typedef int (*spire_bundle_fn)(void *data, const char *trust_domain, STACK_OF(X509) * roots,
                               const char *error);
/* SubscribeToX509BundlesResponse: calls fn for each trust domain that has roots. 0, what fn has returned,
 * -EBADMSG or -ENOMEM with the reason in error. */
int spire_bundles_decode(const uint8_t *message, size_t len, spire_bundle_fn fn, void *data, char *error,
                         size_t error_size);

/* X509SVIDResponse of the Workload API: both at once. 0 and *ret is the caller's, with or without a key; what
 * fn has returned, -EBADMSG, -E2BIG or -ENOMEM with the reason in error. */
int spire_workload_decode(const uint8_t *message, size_t len, const char *identity, struct spire_svid *ret,
                          spire_bundle_fn fn, void *data, char *error, size_t error_size);

#endif
