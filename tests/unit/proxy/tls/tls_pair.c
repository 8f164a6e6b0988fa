/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/proxy/tls/tls_pair.h"

#include <criterion/criterion.h>
#include <sys/socket.h>
#include <unistd.h>

struct tls_context *context_of(EVP_PKEY *key, X509 *cert, const struct test_ca *between,
                               const struct test_ca *trusted, const char *identity)
{
    char *leaf = test_pem(cert), error[200];
    struct tls_context *c = NULL;
    const char *chain[] = {leaf, between ? between->pem : NULL}, *roots[] = {trusted->pem};

    cr_assert(tls_context_new(identity, key, chain, between ? 2 : 1, roots, 1, &c, error, sizeof(error)) == 0,
              "%s", error);
    free(leaf);
    return c;
}

struct tls_context *context(const struct test_ca *ca, const struct test_ca *trusted, const char *identity,
                            const char *san, long from, long to)
{
    EVP_PKEY *key = EVP_EC_gen("prime256v1");
    X509 *cert = test_certificate(key, ca->cert, ca->key, san, from, to);
    struct tls_context *c = context_of(key, cert, NULL, trusted, identity);

    X509_free(cert);
    EVP_PKEY_free(key);
    return c;
}

struct tls_context *good(const struct test_ca *ca, const char *identity)
{
    char san[200];

    snprintf(san, sizeof(san), "critical,URI:%s", identity);
    return context(ca, ca, identity, san, -60, 3600);
}

void start(struct pair *p, struct tls_context *client, struct tls_context *server, const char *expected)
{
    cr_assert(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, p->fds) == 0);
    for (int i = 0; i < 2; i++)
        cr_assert(tls_buffers_init(&p->buffers[i], SIZE) == 0);
    cr_assert(tls_init(&p->client, client, &p->buffers[0], p->fds[0], false) == 0);
    cr_assert(tls_init(&p->server, server, &p->buffers[1], p->fds[1], true) == 0);
    p->expected = (struct workload){.references = 1000, .identity = expected};
    p->client.expected.upstream = &p->expected;
}

void handshake(struct pair *p, int *client, int *server)
{
    *client = *server = 0;
    for (int i = 0; i < 20 && (*client == 0 || *server == 0); i++) {
        if (*client == 0)
            *client = tls_handshake(&p->client);
        if (*server == 0)
            *server = tls_handshake(&p->server);
        if (*client < 0 || *server < 0)
            break;
    }
}

void end(struct pair *p)
{
    tls_destroy(&p->client);
    tls_destroy(&p->server);
    for (int i = 0; i < 2; i++) {
        tls_buffers_destroy(&p->buffers[i]);
        close(p->fds[i]);
    }
}

void established(struct pair *p, struct tls_context *c, struct tls_context *s)
{
    int client, server;

    start(p, c, s, SERVER);
    handshake(p, &client, &server);
    cr_assert(client == 1 && server == 1, "%s / %s", p->client.error, p->server.error);
}

struct world world(void)
{
    struct world w = {.ca = test_ca()};

    w.c = good(&w.ca, CLIENT);
    w.s = good(&w.ca, SERVER);
    return w;
}

void world_end(struct world *w)
{
    tls_context_unref(w->c);
    tls_context_unref(w->s);
    test_ca_free(&w->ca);
}
