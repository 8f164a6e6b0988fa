/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What TLS may be in this process, for all that speak it: versions, suites, groups, signatures, and which
 * cryptography of OpenSSL's does it. Chosen once, at the start; what OpenSSL at hand has is found by asking
 * it.
 */
#ifndef LIB_TLS_POLICY_H
#define LIB_TLS_POLICY_H

#include <openssl/ssl.h>
#include <stdbool.h>
#include <stddef.h>

/* Whether text, of a setting, is "" (none) or a policy, and tls12 goes with it. 0, or -EINVAL with a sentence
 * in error. */
int tls_policy_check(const char *text, bool tls12, char *error, size_t error_size);

/* Puts it in force, with what tls_policy_check() has found good; before the first thread, key or context.
 * fips_config: as tls_fips_load() takes it. 0, or -EINVAL with a sentence in error: the OpenSSL at hand
 * cannot do it. */
int tls_policy_choose(const char *text, bool tls12, const char *fips_config, char *error, size_t error_size);

/* The one in force: "", "fips-140-2", "fips-140-3" or "pqc". A static text, never NULL. */
const char *tls_policy_name(void);
/* Whether all cryptography is to be that of the FIPS provider. */
bool tls_policy_is_fips(void);
/* That provider and its version, "" without. A static text, never NULL. */
const char *tls_policy_module(void);
/* Both for people to read: "pqc", "fips-140-3 (MODULE VERSION)", "" for none. A static text, never NULL. */
const char *tls_policy_text(void);
/* Whether TLS 1.2 is spoken beside 1.3. */
bool tls_policy_has_tls12(void);

/* Limits a fresh context, of either role, to the policy, and to one handshake: nothing is renegotiated, and
 * OpenSSL keeps no sessions. 0, or -EINVAL: OpenSSL has said why. */
int tls_policy_apply(SSL_CTX *context);
/* Whether a handshake that is done is within the policy: some of it is no matter of contexts. */
bool tls_policy_met(const SSL *ssl);
/* Whether what was agreed upon under one policy, "" too, is within another one. */
bool tls_policy_within(const char *made_under, const char *wanted);

#endif
