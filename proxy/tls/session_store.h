/* SPDX-License-Identifier: Apache-2.0 */
/* What is kept of handshakes so that later ones can go on from them (resumption.h): a bounded number, in
 * memory alone, each to be taken once. Shared by all workers. */
#ifndef PROXY_TLS_SESSION_STORE_H
#define PROXY_TLS_SESSION_STORE_H

#include <openssl/ssl.h>
#include <stddef.h>
#include <stdint.h>

#include "lib/list.h"

#define SESSION_ID     24 /* bytes; not a length that OpenSSL looks up in its own cache */
#define SESSION_SECRET 48

/* Under one key a client keeps so many; then the oldest of it goes. */
#define SESSIONS_OF_ONE 8

/* What a session is looked up by. No byte of it is padding. */
struct session_key {
    uint8_t name[32]; /* a server's: the id, and zeroes; a client's: the digest of its own certificate */
    uint64_t peer;    /* a client's: a hash of which proxy it was, and of whom was expected there; else 0 */
};

struct tls_session {
    struct list age;          /* in the store, the oldest first */
    struct tls_session *next; /* in its bucket, the newest first */
    struct session_key key;
    uint8_t id[SESSION_ID], secret[SESSION_SECRET];
    const SSL_CIPHER *suite;
    uint8_t own[32], roots[32];  /* digests of the own certificate and of all that is trusted */
    uint64_t lists;              /* generation of the revocation lists; 0: none are configured */
    int64_t since;               /* wall seconds: the full handshake that it goes back to */
    int64_t peer_until;          /* wall seconds: the first end of a certificate of the peer's chain */
    STACK_OF(X509) * peer_chain; /* as verified; NULL without lists */
    char peer_identity[];        /* as verified */
};

struct session_store;

/* most: sessions, at least 1. The caller's, until session_store_free(); NULL without memory. */
struct session_store *session_store_new(size_t most);
/* With all that it holds. */
void session_store_free(struct session_store **store);

/* Takes the session, whose key is set; the oldest one goes if there is no room. Any thread. */
void session_store_put(struct session_store *store, struct tls_session *session);
/* The newest one of that key, which is the caller's from here on and will not be found again; or NULL. Any
 * thread. */
struct tls_session *session_store_take(struct session_store *store, const struct session_key *key);
/* The newest of all, which stays where it is; or NULL. For tests: only while nobody else uses the store. */
struct tls_session *session_store_any(struct session_store *store);
/* *ret_held: how many it holds; *ret_evicted: how many went because there was no room. Both are written in
 * any case, on any thread. */
void session_store_count(struct session_store *store, size_t *ret_held, uint64_t *ret_evicted);

/* With room for an identity of so many bytes and its NUL; all else is zero. The caller's, until a store takes
 * it or tls_session_free(); NULL without memory. */
struct tls_session *tls_session_new(size_t identity_len);
/* Its secret is overwritten. */
void tls_session_free(struct tls_session **session);

#endif
