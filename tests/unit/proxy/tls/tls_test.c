/* SPDX-License-Identifier: Apache-2.0 */
/* Who is met, and who is refused by the certificate that it shows. */
#include <criterion/criterion.h>
#include <errno.h>
#include <sys/socket.h>
#include <unistd.h>

#include "proxy/tls/tls_library.h"
#include "tests/unit/proxy/tls/tls_pair.h"

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

/* Each side takes the other's old trust domain for its own; expected: what the client is told to meet. */
static bool meet_by_alias(const struct test_ca *ca, const char *client_identity, const char *expected)
{
    struct tls_context *c = good(ca, client_identity), *s = good(ca, "spiffe://old.domain/ns/shop/sa/cart");
    struct trust_domains aliases = {};
    struct pair p = {};
    int client, server;

    cr_assert(trust_domains_parse("old.domain,cluster.local", &aliases) == 0);
    start(&p, c, s, expected);
    p.buffers[0].trust_domains = p.buffers[1].trust_domains = &aliases;
    handshake(&p, &client, &server);
    if (client == 1 && server == 1)
        cr_expect_str_eq(p.server.peer_identity, client_identity, "as it is, not as an alias");
    end(&p);
    tls_context_unref(c);
    tls_context_unref(s);
    trust_domains_free(&aliases);
    return client == 1 && server == 1;
}

Test(tls, an_alias_of_the_trust_domain_counts_as_it)
{
    struct test_ca ca = test_ca();

    cr_expect(meet_by_alias(&ca, CLIENT, SERVER));
    cr_expect(!meet_by_alias(&ca, CLIENT, "spiffe://cluster.local/ns/shop/sa/other"));
    cr_expect(!meet_by_alias(&ca, CLIENT, "spiffe://other.domain/ns/shop/sa/cart"));
    cr_expect(!meet_by_alias(&ca, "spiffe://other.domain/ns/shop/sa/web", SERVER));
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

/* What a handshake comes to, and what is said of it beforehand where both sides are this process's. */
static void foretold(struct tls_context *c, struct tls_context *s, const char *expected, bool good_end)
{
    struct pair p = {};
    int client, server;

    start(&p, c, s, expected);
    cr_expect(tls_vouches(&p.buffers[0], c, s, &p.client.expected) == good_end);
    handshake(&p, &client, &server);
    cr_expect((client == 1 && server == 1) == good_end, "%s / %s", p.client.error, p.server.error);
    end(&p);
    tls_context_unref(c);
    tls_context_unref(s);
}

Test(tls, what_is_vouched_for_is_what_a_handshake_lets_pass)
{
    struct test_ca ca = test_ca(), other = test_ca();

    foretold(good(&ca, CLIENT), good(&ca, SERVER), SERVER, true);
    foretold(good(&ca, CLIENT), good(&ca, CLIENT), SERVER, false);
    foretold(good(&ca, "spiffe://other.domain/ns/shop/sa/web"), good(&ca, SERVER), SERVER, false);
    foretold(good(&other, CLIENT), good(&ca, SERVER), SERVER, false);
    foretold(context(&other, &ca, CLIENT, "URI:" CLIENT, -60, 3600), good(&ca, SERVER), SERVER, false);
    foretold(good(&ca, CLIENT), context(&other, &ca, SERVER, "URI:" SERVER, -60, 3600), SERVER, false);
    test_ca_free(&ca);
    test_ca_free(&other);
}

/* Of an alias the test of the handshake shows the same. */
Test(tls, what_is_vouched_for_knows_aliases_of_the_trust_domain)
{
    struct test_ca ca = test_ca();
    struct tls_context *c = good(&ca, CLIENT), *s = good(&ca, "spiffe://old.domain/ns/shop/sa/cart");
    struct trust_domains aliases = {};
    struct workload upstream = {.references = 1, .identity = SERVER};
    struct tls_expected expected = {.upstream = &upstream};
    struct tls_buffers buffers = {};

    cr_expect(!tls_vouches(&buffers, c, s, &expected));
    cr_assert(trust_domains_parse("old.domain,cluster.local", &aliases) == 0);
    buffers.trust_domains = &aliases;
    cr_expect(tls_vouches(&buffers, c, s, &expected));
    tls_context_unref(c);
    tls_context_unref(s);
    trust_domains_free(&aliases);
    test_ca_free(&ca);
}
