/* SPDX-License-Identifier: Apache-2.0 */
/* Verification of a peer's certificate (contract 3.2), with a memory of chains that were verified a moment
 * ago. */
#ifndef PROXY_TLS_VERIFY_H
#define PROXY_TLS_VERIFY_H

#include <openssl/x509_vfy.h>

struct verified_cache;

/* A worker's own, freed by it; NULL without memory. */
struct verified_cache *verified_cache_new(void);
/* NULL is fine. */
void verified_cache_free(struct verified_cache *cache);

/* For SSL_CTX_set_cert_verify_callback(); the SSL's app data is its struct tls. 1: the peer is taken; 0: not,
 * and tls->reason and tls->error say why. */
int verify_peer(X509_STORE_CTX *store_context, void *unused);

#endif
