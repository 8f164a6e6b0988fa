/* SPDX-License-Identifier: Apache-2.0 */
#include <criterion/criterion.h>
#include <errno.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "proxy/tls/crl.h"
#include "proxy/tls/tls.h"
#include "proxy/tls/tls_library.h"
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

/* between: a CA below the trusted one whose certificate goes along; or NULL. */
static struct tls_context *context_of(EVP_PKEY *key, X509 *cert, const struct test_ca *between,
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

static struct tls_context *context(const struct test_ca *ca, const struct test_ca *trusted,
                                   const char *identity, const char *san, long from, long to)
{
    EVP_PKEY *key = EVP_EC_gen("prime256v1");
    X509 *cert = test_certificate(key, ca->cert, ca->key, san, from, to);
    struct tls_context *c = context_of(key, cert, NULL, trusted, identity);

    X509_free(cert);
    EVP_PKEY_free(key);
    return c;
}

static struct tls_context *good(const struct test_ca *ca, const char *identity)
{
    char san[200];

    snprintf(san, sizeof(san), "critical,URI:%s", identity);
    return context(ca, ca, identity, san, -60, 3600);
}

static void start(struct pair *p, struct tls_context *client, struct tls_context *server,
                  const char *expected)
{
    cr_assert(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, p->fds) == 0);
    for (int i = 0; i < 2; i++)
        cr_assert(tls_buffers_init(&p->buffers[i], SIZE) == 0);
    cr_assert(tls_init(&p->client, client, &p->buffers[0], p->fds[0], false) == 0);
    cr_assert(tls_init(&p->server, server, &p->buffers[1], p->fds[1], true) == 0);
    p->expected = (struct workload){.references = 1000, .identity = expected};
    p->client.expected.upstream = &p->expected;
}

/* Lets both sides go on until both are done or one fails; returns what the two last said. */
static void handshake(struct pair *p, int *client, int *server)
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

static void end(struct pair *p)
{
    tls_destroy(&p->client);
    tls_destroy(&p->server);
    for (int i = 0; i < 2; i++) {
        tls_buffers_destroy(&p->buffers[i]);
        close(p->fds[i]);
    }
}

TestSuite(tls, .init = tls_library_init, .timeout = 60);

Test(tls, both_sides_know_each_other_afterwards)
{
    struct test_ca ca = test_ca();
    struct tls_context *c = good(&ca, CLIENT), *s = good(&ca, SERVER);
    int client, server;

    /* the second round finds the certificates in the memory of the verified ones */
    struct pair p = {};

    start(&p, c, s, SERVER);
    handshake(&p, &client, &server);
    cr_assert(client == 1 && server == 1, "%s / %s", p.client.error, p.server.error);
    cr_expect_str_eq(p.client.peer_identity, SERVER);
    cr_expect_str_eq(p.server.peer_identity, CLIENT);
    end(&p);
    tls_context_unref(c);
    tls_context_unref(s);
    test_ca_free(&ca);
}

static void refused(struct tls_context *c, struct tls_context *s, const char *expected,
                    enum bruma_reason client_reason, enum bruma_reason server_reason)
{
    struct pair p = {};
    int client, server;

    start(&p, c, s, expected);
    handshake(&p, &client, &server);
    cr_expect(client < 0 || server < 0, "one side refuses");
    if (client_reason)
        cr_expect(p.client.reason == client_reason, "%s", p.client.error);
    if (server_reason)
        cr_expect(p.server.reason == server_reason, "%s", p.server.error);
    end(&p);
    tls_context_unref(c);
    tls_context_unref(s);
}

Test(tls, a_server_that_is_somebody_else_is_refused)
{
    struct test_ca ca = test_ca();

    refused(good(&ca, CLIENT), good(&ca, "spiffe://cluster.local/ns/shop/sa/other"), SERVER,
            BRUMA_REASON_PEER_IDENTITY_MISMATCH, BRUMA_REASON_NONE);
    test_ca_free(&ca);
}

Test(tls, a_client_of_another_trust_domain_is_refused)
{
    struct test_ca ca = test_ca();

    refused(good(&ca, "spiffe://other.domain/ns/shop/sa/web"), good(&ca, SERVER), SERVER, BRUMA_REASON_NONE,
            BRUMA_REASON_PEER_TRUST_DOMAIN);
    test_ca_free(&ca);
}

Test(tls, a_certificate_of_another_root_is_refused)
{
    struct test_ca ca = test_ca(), other = test_ca();

    refused(good(&other, CLIENT), good(&ca, SERVER), SERVER, BRUMA_REASON_PEER_UNTRUSTED, BRUMA_REASON_NONE);
    refused(context(&other, &ca, CLIENT, "URI:" CLIENT, -60, 3600), good(&ca, SERVER), SERVER,
            BRUMA_REASON_NONE, BRUMA_REASON_PEER_UNTRUSTED);
    test_ca_free(&ca);
    test_ca_free(&other);
}

Test(tls, a_certificate_out_of_date_is_refused)
{
    struct test_ca ca = test_ca();

    refused(good(&ca, CLIENT), context(&ca, &ca, SERVER, "URI:" SERVER, -7200, -3600), SERVER,
            BRUMA_REASON_PEER_UNTRUSTED, BRUMA_REASON_NONE);
    refused(context(&ca, &ca, CLIENT, "URI:" CLIENT, 3600, 7200), good(&ca, SERVER), SERVER,
            BRUMA_REASON_NONE, BRUMA_REASON_PEER_UNTRUSTED);
    test_ca_free(&ca);
}

Test(tls, a_certificate_without_a_spiffe_name_is_refused)
{
    struct test_ca ca = test_ca();

    refused(context(&ca, &ca, CLIENT, "DNS:web.shop", -60, 3600), good(&ca, SERVER), SERVER,
            BRUMA_REASON_NONE, BRUMA_REASON_PEER_IDENTITY_MISMATCH);
    refused(context(&ca, &ca, CLIENT, "URI:spiffe://cluster.local/ns/shop", -60, 3600), good(&ca, SERVER),
            SERVER, BRUMA_REASON_NONE, BRUMA_REASON_PEER_IDENTITY_MISMATCH);
    test_ca_free(&ca);
}

Test(tls, garbage_instead_of_a_hello_is_an_answer_not_a_crash)
{
    static const char garbage[] = "GET / HTTP/1.1\r\nHost: x\r\n\r\n";
    struct test_ca ca = test_ca();
    struct tls_context *c = good(&ca, CLIENT), *s = good(&ca, SERVER);
    struct pair p = {};

    start(&p, c, s, SERVER);
    cr_assert(write(p.fds[0], garbage, sizeof(garbage)) > 0);
    cr_expect(tls_handshake(&p.server) == -EPROTO);
    cr_expect(p.server.reason == BRUMA_REASON_TLS_HANDSHAKE_FAILED && p.server.error[0]);
    end(&p);
    memset(&p, 0, sizeof(p));
    start(&p, c, s, SERVER);
    shutdown(p.fds[0], SHUT_WR);
    cr_expect(tls_handshake(&p.server) == -EPROTO, "closed before it began");
    end(&p);
    tls_context_unref(c);
    tls_context_unref(s);
    test_ca_free(&ca);
}

/* Far more than the socket holds: what is not taken is kept, nothing is lost or reordered. */
Test(tls, bytes_survive_a_full_socket)
{
    enum { TOTAL = 8 * 1024 * 1024, PIECE = 300 * 1024 };
    struct test_ca ca = test_ca();
    struct tls_context *c = good(&ca, CLIENT), *s = good(&ca, SERVER);
    uint8_t *data = malloc(PIECE), *got = malloc(SIZE);
    size_t sent = 0, received = 0;
    int client, server, blocked = 0;
    struct pair p = {};

    start(&p, c, s, SERVER);
    handshake(&p, &client, &server);
    cr_assert(client == 1 && server == 1);
    for (long rounds = 0; received < TOTAL && rounds < 1000000; rounds++) {
        bool more;
        ssize_t n;

        if (sent < TOTAL && !tls_blocked(&p.client)) {
            size_t len = TOTAL - sent < PIECE ? TOTAL - sent : PIECE;

            for (size_t i = 0; i < len; i++)
                data[i] = (uint8_t)((sent + i) * 31 + (sent + i) / 977);
            cr_assert(tls_write(&p.client, data, len) == 0);
            sent += len;
        }
        cr_assert(tls_flush(&p.client) >= 0);
        blocked += tls_blocked(&p.client);
        n = tls_read(&p.server, got, 100000, &more);
        cr_assert(n >= 0, "%zd", n);
        for (ssize_t i = 0; i < n; i++)
            cr_assert(got[i] == (uint8_t)((received + (size_t)i) * 31 + (received + (size_t)i) / 977),
                      "at %zu", received + (size_t)i);
        received += (size_t)n;
    }
    cr_expect(received == TOTAL);
    cr_expect(blocked > 0, "the socket was full at times");
    tls_shutdown(&p.client);
    for (int i = 0; i < 3; i++) {
        bool more;
        ssize_t n = tls_read(&p.server, got, SIZE, &more);

        if (n == -EPIPE)
            break;
        cr_expect(n == 0 && i < 2, "close_notify ends the connection");
    }
    end(&p);
    free(data);
    free(got);
    tls_context_unref(c);
    tls_context_unref(s);
    test_ca_free(&ca);
}

Test(tls, context_refuses_what_does_not_fit_together)
{
    struct test_ca ca = test_ca();
    EVP_PKEY *key = EVP_EC_gen("prime256v1"), *other = EVP_EC_gen("prime256v1");
    X509 *cert = test_certificate(key, ca.cert, ca.key, "URI:" CLIENT, -60, 3600);
    char *chain = test_pem(cert), error[200];
    const char *chains[] = {chain}, *roots[] = {ca.pem}, *garbage[] = {"not PEM at all"};
    struct tls_context *c = NULL;

    cr_expect(tls_context_new(CLIENT, other, chains, 1, roots, 1, &c, error, sizeof(error)) == -EINVAL,
              "foreign key");
    cr_expect(tls_context_new(CLIENT, key, chains, 1, garbage, 1, &c, error, sizeof(error)) == -EINVAL,
              "no root");
    cr_expect(tls_context_new(CLIENT, key, garbage, 1, roots, 1, &c, error, sizeof(error)) == -EINVAL,
              "no chain");
    cr_expect(tls_context_new("web", key, chains, 1, roots, 1, &c, error, sizeof(error)) == -EINVAL,
              "no identity");
    cr_expect(c == NULL);
    free(chain);
    X509_free(cert);
    EVP_PKEY_free(key);
    EVP_PKEY_free(other);
    test_ca_free(&ca);
}

/* ---- after the handshake ---- */

static const uint8_t ask[] = {24, 0, 0, 1, 1}, new_keys[] = {24, 0, 0, 1, 0};

static void established(struct pair *p, struct tls_context *c, struct tls_context *s)
{
    int client, server;

    start(p, c, s, SERVER);
    handshake(p, &client, &server);
    cr_assert(client == 1 && server == 1, "%s / %s", p->client.error, p->server.error);
}

/* A record of just these bytes, as a peer can make it that is no OpenSSL. */
static void put(struct tls *from, enum record_type type, const void *bytes, size_t len)
{
    uint8_t record[RECORD_PLAIN_MAX + RECORD_OVERHEAD];
    long n = record_seal(&from->seal, type, bytes, len, record);

    cr_assert(n > 0 && send(from->fd, record, (size_t)n, 0) == n);
}

static void put_update(struct tls *from, const uint8_t message[5])
{
    put(from, RECORD_HANDSHAKE, message, 5);
    cr_assert(record_key_update(&from->seal) == 0);
}

static ssize_t take(struct tls *tls, char *buf, size_t size)
{
    bool more;

    return tls_read(tls, (uint8_t *)buf, size, &more);
}

static bool passes(struct tls *from, struct tls *to, const char *text)
{
    static char buf[SIZE];

    cr_assert(tls_write(from, (const uint8_t *)text, strlen(text)) == 0 && tls_flush(from) == 0);
    return take(to, buf, sizeof(buf)) == (ssize_t)strlen(text) && !memcmp(buf, text, strlen(text));
}

static int waiting(int fd)
{
    int n = -1;

    cr_assert(ioctl(fd, FIONREAD, &n) == 0);
    return n;
}

struct world {
    struct test_ca ca;
    struct tls_context *c, *s;
};

static struct world world(void)
{
    struct world w = {.ca = test_ca()};

    w.c = good(&w.ca, CLIENT);
    w.s = good(&w.ca, SERVER);
    return w;
}

static void world_end(struct world *w)
{
    tls_context_unref(w->c);
    tls_context_unref(w->s);
    test_ca_free(&w->ca);
}

/* Two connections of one worker: what the one is asked for is not sent by the other. */
Test(tls, new_keys_that_are_asked_for_stay_with_their_connection)
{
    struct world w = world();
    struct pair a = {}, b = {};
    struct tls_buffers own;
    char buf[SIZE / 8];

    established(&a, w.c, w.s);
    established(&b, w.c, w.s);
    own = b.buffers[1];
    b.server.buffers = a.server.buffers;
    put_update(&a.client, ask);
    cr_expect(take(&a.server, buf, sizeof(buf)) == 0);
    cr_expect(a.buffers[1].gathered.owner == NULL && a.buffers[1].gathered.len == 0,
              "reading writes nothing");
    cr_expect(tls_wants_flush(&a.server) && !tls_wants_flush(&b.server));
    cr_expect(passes(&b.server, &b.client, "to b alone"));
    cr_expect(tls_flush(&a.server) == 0 && !tls_wants_flush(&a.server));
    cr_expect(waiting(a.fds[0]) == 5 + RECORD_OVERHEAD, "the answer");
    cr_expect(passes(&a.server, &a.client, "under new keys") && passes(&a.client, &a.server, "both ways"));
    b.buffers[1] = own;
    b.server.buffers = &b.buffers[1];
    end(&a);
    end(&b);
    world_end(&w);
}

Test(tls, a_connection_that_ends_leaves_nothing_in_shared_buffers)
{
    struct world w = world();
    struct pair a = {};
    uint8_t *data = calloc(1, 400000);
    struct tls_buffers *b;

    established(&a, w.c, w.s);
    b = a.server.buffers;
    while (tls_write(&a.server, data, 400000) == 0 && tls_flush(&a.server) == 0)
        ;
    cr_assert(tls_blocked(&a.server));
    cr_assert(tls_write(&a.server, data, 100) == 0);
    cr_expect(b->gathered.owner == &a.server && b->gathered.len);
    tls_shutdown(&a.server);
    cr_expect(!b->gathered.owner && !b->gathered.len, "not even when it is blocked");
    cr_assert(tls_write(&a.server, data, 100) == 0);
    tls_destroy(&a.server);
    cr_expect(!b->gathered.owner && !b->gathered.len, "nor without a word");
    shared_buffer_check_free(&b->received);
    free(data);
    end(&a);
    world_end(&w);
}

Test(tls, who_takes_another_connections_buffer_ends_the_process, .signal = SIGABRT)
{
    struct world w = world();
    struct pair a = {}, b = {};

    established(&a, w.c, w.s);
    established(&b, w.c, w.s);
    b.server.buffers = a.server.buffers;
    cr_assert(tls_write(&a.server, (const uint8_t *)"x", 1) == 0);
    tls_write(&b.server, (const uint8_t *)"y", 1);
}

Test(tls, many_questions_have_one_answer)
{
    struct world w = world();
    struct pair p = {};
    char buf[SIZE / 8];

    established(&p, w.c, w.s);
    for (int i = 0; i < TLS_KEY_UPDATES; i++)
        put_update(&p.client, i % 2 ? new_keys : ask);
    cr_expect(take(&p.server, buf, sizeof(buf)) == 0, "%s", p.server.error);
    cr_expect(tls_flush(&p.server) == 0);
    cr_expect(waiting(p.fds[0]) == 5 + RECORD_OVERHEAD);
    cr_expect(passes(&p.client, &p.server, "hello") && passes(&p.server, &p.client, "world"));
    end(&p);
    world_end(&w);
}

Test(tls, new_keys_without_data_between_have_a_bound)
{
    static const char data[TLS_MESSAGE_WORTH] = "";
    struct world w = world();
    struct pair p = {};
    char buf[SIZE / 8];
    int taken = 0;

    established(&p, w.c, w.s);
    p.buffers[0].key_updates = 1000; /* the answers are not what this is about */
    for (int i = 0; i < 10 * TLS_KEY_UPDATES; i++) {
        put_update(&p.client, ask);
        put(&p.client, RECORD_DATA, data, sizeof(data));
        cr_assert(take(&p.server, buf, sizeof(buf)) == sizeof(data), "with data between there is none");
        cr_assert(tls_flush(&p.server) == 0 && take(&p.client, buf, sizeof(buf)) == 0);
    }
    /* A byte or an empty record in between is no data to speak of. */
    while (taken < 10 * TLS_KEY_UPDATES) {
        put_update(&p.client, ask);
        put(&p.client, RECORD_DATA, data, (size_t)taken % 2);
        if (take(&p.server, buf, sizeof(buf)) < 0)
            break;
        cr_assert(tls_flush(&p.server) == 0 && take(&p.client, buf, sizeof(buf)) == 0);
        taken++;
    }
    cr_expect(taken == TLS_KEY_UPDATES, "%d", taken);
    cr_expect(p.server.reason == BRUMA_REASON_KEY_UPDATE_FLOOD, "%s", p.server.error);
    end(&p);
    world_end(&w);
}

Test(tls, who_asks_and_does_not_read_is_not_read_from)
{
    struct world w = world();
    struct pair p = {};
    uint8_t *data = calloc(1, 400000);
    char buf[SIZE / 8];

    established(&p, w.c, w.s);
    while (tls_write(&p.server, data, 400000) == 0 && tls_flush(&p.server) == 0)
        ;
    put_update(&p.client, ask);
    cr_expect(take(&p.server, buf, sizeof(buf)) == 0);
    cr_expect(!tls_unanswerable(&p.server), "once may be: both ends can be blocked, and go on by reading");
    put_update(&p.client, ask);
    cr_expect(take(&p.server, buf, sizeof(buf)) == 0);
    cr_expect(tls_unanswerable(&p.server));
    while (tls_blocked(&p.server)) {
        cr_assert(take(&p.client, buf, sizeof(buf)) > 0);
        cr_assert(tls_flush(&p.server) >= 0);
    }
    cr_expect(!tls_unanswerable(&p.server));
    while (take(&p.client, buf, sizeof(buf)) > 0)
        ;
    cr_assert(tls_flush(&p.server) == 0);
    cr_expect(take(&p.client, buf, sizeof(buf)) == 0 && passes(&p.server, &p.client, "goes on"));
    free(data);
    end(&p);
    world_end(&w);
}

/* RFC 8446 section 5.1: in as many pieces as the sender likes, several in one record, and nothing between. */
Test(tls, handshake_messages_may_come_in_pieces)
{
    struct world w = world();
    struct pair p = {};
    uint8_t *ticket = calloc(1, 4 + 70000);
    char buf[SIZE / 8];

    established(&p, w.c, w.s);
    for (size_t i = 0; i < sizeof(ask); i++)
        put(&p.client, RECORD_HANDSHAKE, ask + i, 1);
    cr_assert(record_key_update(&p.client.seal) == 0);
    put(&p.client, RECORD_DATA, "x", 1);
    cr_expect(take(&p.server, buf, sizeof(buf)) == 1, "%s", p.server.error);
    cr_expect(passes(&p.server, &p.client, "answered"));

    ticket[0] = 4;
    ticket[1] = 70000 >> 16;
    ticket[2] = 70000 >> 8 & 255;
    ticket[3] = 70000 & 255;
    for (size_t at = 0; at < 4 + 70000; at += 7001)
        put(&p.server, RECORD_HANDSHAKE, ticket + at, 4 + 70000 - at < 7001 ? 4 + 70000 - at : 7001);
    cr_expect(take(&p.client, buf, sizeof(buf)) == 0, "%s", p.client.error);
    memcpy(buf, "\4\0\0\2ab\4\0\0\1c", 11); /* two tickets, and new keys, in one */
    memcpy(buf + 11, new_keys, 5);
    put(&p.server, RECORD_HANDSHAKE, buf, 16);
    cr_assert(record_key_update(&p.server.seal) == 0);
    cr_expect(passes(&p.server, &p.client, "tickets are passed over"), "%s", p.client.error);
    free(ticket);
    end(&p);
    world_end(&w);
}

static void refused_afterwards(const struct world *w, bool to_client, const char *what, const void *first,
                               size_t first_len, enum record_type type, const void *second, size_t second_len)
{
    struct pair p = {};
    struct tls *from, *to;
    char buf[4096];

    established(&p, w->c, w->s);
    from = to_client ? &p.server : &p.client;
    to = to_client ? &p.client : &p.server;
    put(from, RECORD_HANDSHAKE, first, first_len);
    if (second)
        put(from, type, second, second_len);
    cr_expect(take(to, buf, sizeof(buf)) == -EPROTO && to->error[0], "%s", what);
    shared_buffer_check_free(&to->buffers->received);
    end(&p);
}

Test(tls, handshake_messages_that_break_rules_are_refused)
{
    struct world w = world();

    refused_afterwards(&w, false, "data between pieces", ask, 2, RECORD_DATA, "x", 1);
    refused_afterwards(&w, false, "an alert between pieces", ask, 4, RECORD_ALERT, "\1\0", 2);
    refused_afterwards(&w, false, "an empty piece", "", 0, RECORD_DATA, NULL, 0);
    refused_afterwards(&w, false, "something behind new keys", "\30\0\0\1\0\30", 6, RECORD_DATA, NULL, 0);
    refused_afterwards(&w, false, "neither yes nor no", "\30\0\0\1\2", 5, RECORD_DATA, NULL, 0);
    refused_afterwards(&w, false, "a long key update", "\30\0\0\2\0\0", 6, RECORD_DATA, NULL, 0);
    refused_afterwards(&w, false, "a ticket of a client", "\4\0\0\1x", 5, RECORD_DATA, NULL, 0);
    refused_afterwards(&w, true, "a ticket that cannot be", "\4\7\0\0", 4, RECORD_DATA, NULL, 0);
    refused_afterwards(&w, true, "another handshake", "\1\0\0\1x", 5, RECORD_DATA, NULL, 0);
    world_end(&w);
}

Test(tls, a_certificate_with_two_uri_names_is_refused)
{
    struct test_ca ca = test_ca();

    refused(
        context(&ca, &ca, CLIENT, "URI:" CLIENT ",URI:spiffe://cluster.local/ns/shop/sa/admin", -60, 3600),
        good(&ca, SERVER), SERVER, BRUMA_REASON_NONE, BRUMA_REASON_PEER_IDENTITY_AMBIGUOUS);
    refused(context(&ca, &ca, CLIENT, "URI:" CLIENT ",URI:https://example.org/", -60, 3600),
            good(&ca, SERVER), SERVER, BRUMA_REASON_NONE, BRUMA_REASON_PEER_IDENTITY_AMBIGUOUS);
    refused(good(&ca, CLIENT), context(&ca, &ca, SERVER, "URI:" SERVER ",URI:" CLIENT, -60, 3600), SERVER,
            BRUMA_REASON_PEER_IDENTITY_AMBIGUOUS, BRUMA_REASON_NONE);
    refused(good(&ca, CLIENT), context(&ca, &ca, SERVER, "URI:" CLIENT ",URI:" SERVER, -60, 3600), SERVER,
            BRUMA_REASON_PEER_IDENTITY_AMBIGUOUS, BRUMA_REASON_NONE);
    test_ca_free(&ca);
}
/* ---- the memory of verified chains ---- */

/* What one worker remembers: both roles share its buffers, as in the proxy. */
struct worker_memory {
    struct tls_buffers ours, theirs;
};

static void memory_init(struct worker_memory *m)
{
    memset(m, 0, sizeof(*m));
    cr_assert(tls_buffers_init(&m->ours, SIZE) == 0 && tls_buffers_init(&m->theirs, SIZE) == 0);
}

static void memory_destroy(struct worker_memory *m)
{
    tls_buffers_destroy(&m->ours);
    tls_buffers_destroy(&m->theirs);
}

/* A handshake of ours with a peer, who is the server or the client. 0: good. */
static enum bruma_reason meet(struct worker_memory *m, struct tls_context *own, struct tls_context *peer,
                              bool peer_serves)
{
    struct workload expected = {.references = 1000, .identity = peer->identity};
    struct tls_buffers *client = peer_serves ? &m->ours : &m->theirs,
                       *server = peer_serves ? &m->theirs : &m->ours;
    struct pair p = {};
    enum bruma_reason reason;
    struct tls *of_ours;
    int a, b;

    cr_assert(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, p.fds) == 0);
    cr_assert(tls_init(&p.client, peer_serves ? own : peer, client, p.fds[0], false) == 0);
    cr_assert(tls_init(&p.server, peer_serves ? peer : own, server, p.fds[1], true) == 0);
    if (!peer_serves)
        expected.identity = own->identity;
    p.client.expected.upstream = &expected;
    handshake(&p, &a, &b);
    of_ours = peer_serves ? &p.client : &p.server;
    reason = of_ours->reason;
    cr_assert(reason || of_ours->established, "%s / %s", p.client.error, p.server.error);
    tls_destroy(&p.client);
    tls_destroy(&p.server);
    for (int i = 0; i < 2; i++)
        close(p.fds[i]);
    return reason;
}

static struct tls_context *of_purpose(const struct test_ca *ca, const char *identity, const char *purpose)
{
    char san[200];
    const struct test_extension extensions[] = {{NID_subject_alt_name, san}, {NID_ext_key_usage, purpose}};
    EVP_PKEY *key = EVP_EC_gen("prime256v1");
    struct tls_context *c;
    X509 *cert;

    snprintf(san, sizeof(san), "critical,URI:%s", identity);
    cert = test_signed(key, ca->cert, ca->key, NULL, extensions, 2, -60, 3600);
    c = context_of(key, cert, NULL, ca, identity);
    X509_free(cert);
    EVP_PKEY_free(key);
    return c;
}

Test(tls, a_certificate_for_one_role_is_not_good_for_the_other_because_it_was_met)
{
    struct test_ca ca = test_ca();
    struct tls_context *own = good(&ca, CLIENT), *server = of_purpose(&ca, SERVER, "serverAuth"),
                       *client = of_purpose(&ca, SERVER, "clientAuth");
    struct worker_memory m;

    memory_init(&m);
    for (int i = 0; i < 2; i++) {
        cr_expect(meet(&m, own, server, true) == BRUMA_REASON_NONE);
        cr_expect(meet(&m, own, server, false) == BRUMA_REASON_PEER_UNTRUSTED);
        cr_expect(meet(&m, own, client, false) == BRUMA_REASON_NONE);
        cr_expect(meet(&m, own, client, true) == BRUMA_REASON_PEER_UNTRUSTED);
    }
    memory_destroy(&m);
    tls_context_unref(own);
    tls_context_unref(server);
    tls_context_unref(client);
    test_ca_free(&ca);
}

/* The leaf is good for an hour more, and what it stands on is not. */
Test(tls, a_chain_is_remembered_no_longer_than_each_of_its_certificates_is_good)
{
    struct test_ca ca = test_ca(), between = test_ca_below(&ca, -60, 3);
    EVP_PKEY *key = EVP_EC_gen("prime256v1");
    X509 *cert = test_certificate(key, between.cert, between.key, "critical,URI:" SERVER, -60, 3600);
    struct tls_context *own = good(&ca, CLIENT), *peer = context_of(key, cert, &between, &ca, SERVER);
    struct worker_memory m;
    time_t end = time(NULL) + 3;

    memory_init(&m);
    cr_expect(meet(&m, own, peer, true) == BRUMA_REASON_NONE);
    cr_expect(meet(&m, own, peer, true) == BRUMA_REASON_NONE);
    while (time(NULL) <= end)
        usleep(50000);
    cr_expect(meet(&m, own, peer, true) == BRUMA_REASON_PEER_UNTRUSTED);
    memory_destroy(&m);
    X509_free(cert);
    EVP_PKEY_free(key);
    tls_context_unref(own);
    tls_context_unref(peer);
    test_ca_free(&between);
    test_ca_free(&ca);
}

Test(tls, what_was_good_under_other_roots_or_lists_is_looked_at_again)
{
    struct test_ca ca = test_ca(), next = test_ca();
    struct tls_context *own = good(&ca, CLIENT), *peer = good(&ca, SERVER), *elsewhere,
                       *renewed = good(&ca, CLIENT);
    struct crl_set *nobody = NULL, *named = NULL;
    struct worker_memory m;
    char path[] = "/tmp/bruma-tls-XXXXXX", error[160];
    int fd = mkstemp(path);

    memory_init(&m);
    cr_assert(fd >= 0 && crl_load(path, &nobody, error, sizeof(error)) == 0);
    cr_expect(meet(&m, own, peer, true) == BRUMA_REASON_NONE);
    cr_expect(meet(&m, renewed, peer, true) == BRUMA_REASON_NONE, "the same roots, another certificate");
    elsewhere = context(&ca, &next, CLIENT, "critical,URI:" CLIENT, -60, 3600);
    cr_expect(meet(&m, elsewhere, peer, true) == BRUMA_REASON_PEER_UNTRUSTED, "other roots");

    m.ours.revoked = crl_ref(nobody);
    for (int i = 0; i < 2; i++)
        cr_expect(meet(&m, own, peer, true) == BRUMA_REASON_NONE, "no list names it");
    test_crl_write(path, &ca, ca.key, SSL_CTX_get0_certificate(peer->server), true);
    cr_assert(crl_load(path, &named, error, sizeof(error)) == 0, "%s", error);
    crl_unref(m.ours.revoked);
    m.ours.revoked = crl_ref(named);
    for (int i = 0; i < 2; i++)
        cr_expect(meet(&m, own, peer, true) == BRUMA_REASON_CERTIFICATE_REVOKED);
    crl_unref(m.ours.revoked);
    m.ours.revoked = NULL;
    cr_expect(meet(&m, own, peer, true) == BRUMA_REASON_NONE);

    memory_destroy(&m);
    crl_unref(nobody);
    crl_unref(named);
    close(fd);
    unlink(path);
    tls_context_unref(own);
    tls_context_unref(peer);
    tls_context_unref(renewed);
    tls_context_unref(elsewhere);
    test_ca_free(&ca);
    test_ca_free(&next);
}

/* The first certificate of a chain to end ends what the peer may do. */
Test(tls, the_end_of_a_peers_authority_is_that_of_the_first_certificate_to_end)
{
    struct test_ca ca = test_ca(), between = test_ca_below(&ca, -60, 600);
    EVP_PKEY *key = EVP_EC_gen("prime256v1");
    X509 *cert = test_certificate(key, between.cert, between.key, "critical,URI:" SERVER, -60, 3600);
    struct tls_context *c = good(&ca, CLIENT), *s = context_of(key, cert, &between, &ca, SERVER);
    int64_t now = time(NULL);
    int client, server;

    for (int i = 0; i < 2; i++) {
        struct pair p = {};

        start(&p, c, s, SERVER);
        handshake(&p, &client, &server);
        cr_assert(client == 1 && server == 1, "%s / %s", p.client.error, p.server.error);
        cr_expect(p.client.peer_until > now + 590 && p.client.peer_until <= now + 610);
        cr_expect(p.server.peer_until > now + 3590 && p.server.peer_until <= now + 3610);
        cr_expect(!tls_peer_expired(&p.client) && !tls_peer_expired(&p.server));
        p.client.peer_until = now;
        cr_expect(tls_peer_expired(&p.client), "at its end it has ended");
        end(&p);
    }
    X509_free(cert);
    EVP_PKEY_free(key);
    tls_context_unref(c);
    tls_context_unref(s);
    test_ca_free(&between);
    test_ca_free(&ca);
}

/* A company's root that nobody in the mesh has: what the mesh trusts is the CA below it. */
Test(tls, roots_need_not_be_self_signed)
{
    struct test_ca company = test_ca(), anchor = test_ca_below(&company, -60, 86400);
    struct tls_context *c = good(&anchor, CLIENT), *s = good(&anchor, SERVER);
    struct pair p = {};
    int client, server;

    start(&p, c, s, SERVER);
    handshake(&p, &client, &server);
    cr_expect(client == 1 && server == 1, "%s / %s", p.client.error, p.server.error);
    end(&p);
    refused(good(&company, CLIENT), s, SERVER, BRUMA_REASON_NONE, BRUMA_REASON_NONE);
    tls_context_unref(c);
    test_ca_free(&anchor);
    test_ca_free(&company);
}
