/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Record protection of TLS 1.3 (RFC 8446 section 5), and of TLS 1.2 with AES-GCM (RFC 5246 section 6.2.3.3,
 * RFC 5288), of one direction of a connection whose handshake OpenSSL has done. The bytes go from the buffer
 * they are in straight to the buffer they are wanted in, which OpenSSL's own record layer cannot do: it
 * copies twice. A direction is a key, an IV and a sequence number, and so could be handed to another process.
 */
#ifndef PROXY_TLS_RECORD_H
#define PROXY_TLS_RECORD_H

#include <openssl/evp.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* All of them in bytes. */
#define RECORD_HEADER     5
#define RECORD_PLAIN_MAX  16384 /* bytes of plaintext in a record */
#define RECORD_TAG        16
#define RECORD_NONCE      8                                           /* in front of a record of TLS 1.2 */
#define RECORD_OVERHEAD   (RECORD_HEADER + 1 + RECORD_TAG)            /* of TLS 1.3 */
#define RECORD_OVERHEAD12 (RECORD_HEADER + RECORD_NONCE + RECORD_TAG) /* of TLS 1.2, and the most */
#define RECORD_CIPHER_MAX (RECORD_PLAIN_MAX + 256)                    /* body, as the RFC bounds it */
#define RECORD_SECRET_MAX 48                                          /* bytes */

/* Types of content, by their numbers on the wire. */
enum record_type {
    RECORD_ALERT = 21,
    RECORD_HANDSHAKE = 22,
    RECORD_DATA = 23,
};

struct record_suite {
    const char *name; /* OpenSSL's: of TLS 1.3 the standard's */
    bool tls12;
    bool sha384; /* or SHA-256 */
    size_t key_len, secret_len;
};

/* One direction; zeroed is none. */
struct record_key {
    EVP_CIPHER_CTX *cipher;
    const struct record_suite *suite;
    uint8_t secret[RECORD_SECRET_MAX];
    uint8_t iv[12]; /* of TLS 1.2 the first four bytes, which records do not carry */
    uint64_t sequence;
    bool seals;
};

/* A static one; NULL for those that are not AES-GCM with keys agreed upon by ECDHE. */
const struct record_suite *record_suite_find(const char *name);

/* secret: an application traffic secret; of TLS 1.2, which has none, the key and the four bytes of IV.
 * cipher_suite: its name. The first record has number 0. 0, -ENOTSUP: as record_suite_find(), or not so long
 * a secret; -ENOMEM. */
int record_key_init(struct record_key *key, const char *cipher_suite, const uint8_t *secret,
                    size_t secret_len, bool seals);
/* Wipes it; harmless for one that is zeroed. */
void record_key_clear(struct record_key *key);
/* The next generation of keys (RFC 8446 section 7.2); TLS 1.2 has none. 0, or -errno: the key is not to be
 * used any more. */
int record_key_update(struct record_key *key);
/* True once so many records were protected that the key must be updated; of TLS 1.2, where it cannot be, that
 * nothing new should be begun under it. */
bool record_key_worn(const struct record_key *key);

/* Writes one record with len (at most RECORD_PLAIN_MAX) bytes of data to out, which has room for len +
 * RECORD_OVERHEAD12. Returns its length or -EPROTO. */
long record_seal(struct record_key *key, enum record_type type, const uint8_t *data, size_t len,
                 uint8_t *out);

/* Whether a record may have a header with this type and this many bytes of body. */
bool record_header_valid(const struct record_key *key, uint8_t type, size_t body_len);
/* record: header, which is valid, and body_len bytes. Writes at most body_len bytes to out. Returns the
 * length of the plaintext and its type, or -EPROTO (not authentic, or malformed). */
long record_open(struct record_key *key, const uint8_t *record, size_t body_len, uint8_t *out,
                 uint8_t *ret_type);

#endif
