/* SPDX-License-Identifier: Apache-2.0 */
/* Two ends of a connection and the certificates that they show. */
#ifndef TESTS_UNIT_PROXY_TLS_TLS_PAIR_H
#define TESTS_UNIT_PROXY_TLS_TLS_PAIR_H

#include "proxy/tls/tls.h"
#include "tests/unit/certificates.h"

#define CLIENT "spiffe://cluster.local/ns/shop/sa/web"
#define SERVER "spiffe://cluster.local/ns/shop/sa/cart"
#define SIZE   (512 * 1024)

struct pair {
    int fds[2];
    struct tls_buffers buffers[2]; /* as on two workers */
    struct tls client, server;
    struct workload expected;
};

/* Contexts are the caller's: tls_context_unref(). between: a CA below the trusted one whose certificate goes
 * along; or NULL. */
struct tls_context *context_of(EVP_PKEY *key, X509 *cert, const struct test_ca *between,
                               const struct test_ca *trusted, const char *identity);
/* Of a new key, whose certificate has these alternative names and is good from and to so many seconds from
 * now. */
struct tls_context *context(const struct test_ca *ca, const struct test_ca *trusted, const char *identity,
                            const char *san, long from, long to);
/* Nothing is wrong with it. */
struct tls_context *good(const struct test_ca *ca, const char *identity);

/* expected: the identity that the client wants to meet. Until end(). */
void start(struct pair *p, struct tls_context *client, struct tls_context *server, const char *expected);
/* Lets both sides go on until both are done or one fails; returns what the two last said. */
void handshake(struct pair *p, int *client, int *server);
/* start() and a handshake that is good. */
void established(struct pair *p, struct tls_context *c, struct tls_context *s);
void end(struct pair *p);

/* A CA, a client and a server. */
struct world {
    struct test_ca ca;
    struct tls_context *c, *s;
};

struct world world(void);
void world_end(struct world *w);

#endif
