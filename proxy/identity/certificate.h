/* SPDX-License-Identifier: Apache-2.0 */
/* One certificate request to the CA and its answer (contract sections 1.5 and 7). */
#ifndef PROXY_IDENTITY_CERTIFICATE_H
#define PROXY_IDENTITY_CERTIFICATE_H

#include <openssl/evp.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

#include "proxy/tls/tls_context.h"
#include "proxy/wire/wire.h"

#define CERTIFICATE_CHAIN_MAX 8 /* certificates of a chain */

/* A fresh P-256 key and IstioCertificateRequest: CSR with the identity as critical URI SAN, and
 * unless for_itself ImpersonatedIdentity in the metadata. Both are the caller's. 0 or -ENOMEM. */
int certificate_request(const char *identity, bool for_itself, uint64_t ttl_seconds, EVP_PKEY **ret_key,
                        struct wire_writer *ret_message);

/* Zeroed is none; certificate_clear(). */
struct certificate {
    char *chain[CERTIFICATE_CHAIN_MAX]; /* PEM, leaf first, without roots; each any number */
    size_t chain_len;
    char *roots;                  /* PEM, any number */
    time_t not_before, not_after; /* wall seconds: while all of the chain is good */
};

/* Makes sure that it is what is wanted: the key, the identity as the only SPIFFE name, dates that make sense
 * and are not over (which it sets), and a chain to its roots. There is a chain. 0; -EBADMSG with the reason
 * in error. */
int certificate_check(struct certificate *certificate, const char *identity, EVP_PKEY *key, char *error,
                      size_t error_size);
/* Decodes IstioCertificateResponse, and checks it. 0; -EBADMSG with the reason in error; -ENOMEM. */
int certificate_response(const uint8_t *message, size_t len, const char *identity, EVP_PKEY *key,
                         struct certificate *ret, char *error, size_t error_size);
/* Frees what it has, and empties it. */
void certificate_clear(struct certificate *certificate);

#endif
