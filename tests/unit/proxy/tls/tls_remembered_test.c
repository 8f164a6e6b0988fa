/* SPDX-License-Identifier: Apache-2.0 */
/* The memory of verified chains: what was good once is not good for ever, nor for everything. */
#include <criterion/criterion.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "proxy/tls/crl.h"
#include "proxy/tls/tls_library.h"
#include "tests/unit/proxy/tls/tls_pair.h"

TestSuite(tls_remembered, .init = tls_library_init, .timeout = 60);

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

Test(tls_remembered, a_certificate_for_one_role_is_not_good_for_the_other_because_it_was_met)
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
Test(tls_remembered, a_chain_is_remembered_no_longer_than_each_of_its_certificates_is_good)
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

Test(tls_remembered, what_was_good_under_other_roots_or_lists_is_looked_at_again)
{
    struct test_ca ca = test_ca(), next = test_ca();
    struct tls_context *own = good(&ca, CLIENT), *peer = good(&ca, SERVER), *elsewhere,
                       *renewed = good(&ca, CLIENT);
    struct crl_set *nobody = NULL, *named = NULL;
    struct worker_memory m;
    char path[] = "/tmp/bruma-tls-XXXXXX", error[160];
    const struct workload upstream = {.references = 1, .identity = SERVER};
    const struct tls_expected expected = {.upstream = &upstream};
    int fd = mkstemp(path);

    memory_init(&m);
    cr_assert(fd >= 0 && crl_load(path, &nobody, error, sizeof(error)) == 0);
    cr_expect(meet(&m, own, peer, true) == BRUMA_REASON_NONE);
    cr_expect(meet(&m, renewed, peer, true) == BRUMA_REASON_NONE, "the same roots, another certificate");
    elsewhere = context(&ca, &next, CLIENT, "critical,URI:" CLIENT, -60, 3600);
    cr_expect(meet(&m, elsewhere, peer, true) == BRUMA_REASON_PEER_UNTRUSTED, "other roots");

    cr_expect(!tls_vouches(&m.ours, elsewhere, peer, &expected) &&
              tls_vouches(&m.ours, own, peer, &expected));

    m.ours.revoked = crl_ref(nobody);
    for (int i = 0; i < 2; i++)
        cr_expect(meet(&m, own, peer, true) == BRUMA_REASON_NONE, "no list names it");
    cr_expect(tls_vouches(&m.ours, own, peer, &expected) && !tls_context_revoked(&m.ours, peer));
    test_crl_write(path, &ca, ca.key, SSL_CTX_get0_certificate(peer->server), true);
    cr_assert(crl_load(path, &named, error, sizeof(error)) == 0, "%s", error);
    crl_unref(m.ours.revoked);
    m.ours.revoked = crl_ref(named);
    for (int i = 0; i < 2; i++)
        cr_expect(meet(&m, own, peer, true) == BRUMA_REASON_CERTIFICATE_REVOKED);
    cr_expect(!tls_vouches(&m.ours, own, peer, &expected) && tls_context_revoked(&m.ours, peer));
    cr_expect(!tls_vouches(&m.ours, peer, own, &expected) && !tls_context_revoked(&m.ours, own));
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
Test(tls_remembered, the_end_of_a_peers_authority_is_that_of_the_first_certificate_to_end)
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
