/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The built-in certificate authority: one ECDSA P-256 key, a root that it signs itself, and short-lived
 * certificates for the identities of pods. Nodes that are given the same key and trust domain trust each
 * other: their roots have the same subject and key identifier. Who may ask for which identity is decided
 * elsewhere (control_plane.c).
 */
#ifndef AGENT_CONTROL_PLANE_CA_H
#define AGENT_CONTROL_PLANE_CA_H

#include <openssl/ssl.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

#define CA_DEFAULT_SECONDS (24 * 3600)
#define CA_MAX_SECONDS     (90 * 24 * 3600)
#define CA_SKEW_SECONDS    120         /* certificates begin this long ago, for clocks that are behind */
#define CA_CSR_MAX         (16 * 1024) /* bytes of a certificate request */

struct ca;

/*
 * directory: where the root is written (root-cert.pem), and the key (ca-key.pem, 0600) if key_file is NULL;
 * an existing key is used again. 0 or -errno, logged; -EINVAL for a key that is no P-256 key.
 */
int ca_open(const char *directory, const char *key_file, const char *trust_domain, struct ca **ret);
void ca_free(struct ca **ca);

/* All three are of the root that there is now: the texts, never NULL, are the CA's until the next
 * ca_renew(). */
const char *ca_root_pem(const struct ca *ca);
const char *ca_subject(const struct ca *ca);
/* Seconds since 1970. */
time_t ca_not_after(const struct ca *ca);

/* Makes a new root, of the same key, where the one that there is has less than a year left or has not begun:
 * with the years, or since the clock was set. Returns 1 if it did, 0, or -errno: the old one stays. */
int ca_renew(struct ca *ca, time_t now);

/*
 * Signs the key of a certificate request (PEM) for identity, a SPIFFE URI. What else the request asks for is
 * ignored. seconds 0: CA_DEFAULT_SECONDS; the certificate never outlives the root. *ret_pem is freed by the
 * caller. -EINVAL with a sentence in error if the request is to blame, else -EIO or -ENOMEM.
 */
int ca_sign(const struct ca *ca, const char *csr, size_t csr_len, const char *identity, int64_t seconds,
            time_t now, char **ret_pem, char *error, size_t error_size);

/* Gives tls a new key and certificate for localhost, 127.0.0.1 and ::1, good for 30 days from now (seconds
 * since 1970). 0, or -EIO, logged: tls keeps what it has. */
int ca_serve(const struct ca *ca, SSL_CTX *tls, time_t now);

#endif
