/* SPDX-License-Identifier: Apache-2.0 */
/* Two node proxies that meet again: what a resumed handshake carries, and each thing that it stands on. */
#include "proxy/tls/resumption.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "lib/cleanup.h"
#include "lib/wall.h"
#include "proxy/tls/crl.h"
#include "proxy/tls/tls_library.h"
#include "tests/unit/proxy/tls/tls_pair.h"

#define PLACE 7 /* of the server's proxy */

TestSuite(resumption, .init = tls_library_init, .timeout = 60);

/* A proxy of one worker. */
struct node {
    struct tls_buffers buffers;
    struct tls_resumption resumption;
};

struct nodes {
    struct world world;
    struct node client, server;
};

static void node_init(struct node *n, size_t most)
{
    memset(n, 0, sizeof(*n));
    cr_assert(tls_buffers_init(&n->buffers, SIZE) == 0);
    cr_assert(tls_resumption_init(&n->resumption, most, 3600000) == 0);
    n->buffers.resumption = &n->resumption;
}

static void node_destroy(struct node *n)
{
    tls_buffers_destroy(&n->buffers);
    tls_resumption_destroy(&n->resumption);
}

static void nodes_begin(struct nodes *n)
{
    n->world = world();
    node_init(&n->client, 64);
    node_init(&n->server, 64);
}

static void nodes_end(struct nodes *n)
{
    node_destroy(&n->client);
    node_destroy(&n->server);
    world_end(&n->world);
}

/* Not begun yet. */
static void face(struct pair *p, struct nodes *n, struct tls_context *client, struct tls_context *server,
                 const char *expected)
{
    memset(p, 0, sizeof(*p));
    cr_assert(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, p->fds) == 0);
    cr_assert(tls_init(&p->client, client, &n->client.buffers, p->fds[0], false) == 0);
    cr_assert(tls_init(&p->server, server, &n->server.buffers, p->fds[1], true) == 0);
    p->expected = (struct workload){.references = 1000, .identity = expected};
    p->client.expected.upstream = &p->expected;
    p->client.target = PLACE;
}

static void part(struct pair *p)
{
    tls_destroy(&p->client);
    tls_destroy(&p->server);
    for (int i = 0; i < 2; i++)
        close(p->fds[i]);
}

static unsigned long resumed(const struct nodes *n)
{
    unsigned long client = n->client.resumption.counts[0].resumed,
                  server = n->server.resumption.counts[1].resumed;

    cr_assert(client == server);
    return client;
}

static unsigned long refused_by_client(const struct nodes *n, enum tls_refusal why)
{
    return n->client.resumption.counts[0].refused[why];
}

static unsigned long refused_by_server(const struct nodes *n, enum tls_refusal why)
{
    return n->server.resumption.counts[1].refused[why];
}

/* True: it was a resumed handshake. Either way both know whom they have met. */
static bool meet(struct nodes *n, struct tls_context *client, struct tls_context *server)
{
    unsigned long before = resumed(n);
    struct pair p;
    int a, b;

    face(&p, n, client, server, server->identity);
    handshake(&p, &a, &b);
    cr_assert(a == 1 && b == 1, "%s / %s", p.client.error, p.server.error);
    cr_expect_str_eq(p.client.peer_identity, server->identity);
    cr_expect_str_eq(p.server.peer_identity, client->identity);
    cr_expect(!tls_peer_expired(&p.client) && !tls_peer_expired(&p.server));
    part(&p);
    return resumed(n) > before;
}

/* The one session that a node keeps, without its store's knowing. */
static struct tls_session *kept(struct node *n, bool server)
{
    struct session_store *store = n->resumption.sessions[server];
    struct tls_session *s = session_store_any(store);

    cr_assert(s);
    return s;
}

Test(resumption, who_has_met_once_goes_on_from_there_and_is_who_it_was)
{
    struct nodes n;

    nodes_begin(&n);
    cr_expect(!meet(&n, n.world.c, n.world.s), "the first time");
    for (int i = 0; i < 5; i++)
        cr_expect(meet(&n, n.world.c, n.world.s), "each handshake leaves a session for the next");
    cr_expect(n.client.resumption.counts[0].full == 1 && n.server.resumption.counts[1].full == 1);
    nodes_end(&n);
}

Test(resumption, what_is_said_in_a_resumed_connection_arrives)
{
    struct nodes n;
    uint8_t got[64 * 1024];
    struct pair p;
    bool more;
    int a, b;

    nodes_begin(&n);
    meet(&n, n.world.c, n.world.s);
    face(&p, &n, n.world.c, n.world.s, SERVER);
    handshake(&p, &a, &b);
    cr_assert(a == 1 && b == 1 && resumed(&n) == 1);
    cr_assert(tls_write(&p.client, (const uint8_t *)"to", 2) == 0 && tls_flush(&p.client) == 0);
    cr_expect(tls_read(&p.server, got, sizeof(got), &more) == 2 && !memcmp(got, "to", 2));
    cr_assert(tls_write(&p.server, (const uint8_t *)"fro", 3) == 0 && tls_flush(&p.server) == 0);
    cr_expect(tls_read(&p.client, got, sizeof(got), &more) == 3 && !memcmp(got, "fro", 3));
    part(&p);
    nodes_end(&n);
}

/* OpenSSL asks both sides a second time, and the session is the one that was taken the first time. */
Test(resumption, a_server_that_wants_another_group_resumes_all_the_same)
{
    struct nodes n;
    struct pair p;
    int a, b;

    nodes_begin(&n);
    meet(&n, n.world.c, n.world.s);
    for (unsigned long i = 1; i <= 2; i++) {
        face(&p, &n, n.world.c, n.world.s, SERVER);
        cr_assert(SSL_set1_groups_list(p.client.ssl, "P-256:X25519"));
        cr_assert(SSL_set1_groups_list(p.server.ssl, "X25519"));
        handshake(&p, &a, &b);
        cr_assert(a == 1 && b == 1, "%s / %s", p.client.error, p.server.error);
        cr_expect(resumed(&n) == i);
        cr_expect_str_eq(p.server.peer_identity, CLIENT);
        part(&p);
    }
    cr_expect(refused_by_server(&n, TLS_REFUSAL_UNKNOWN) == 0);
    nodes_end(&n);
}

Test(resumption, who_does_not_take_part_is_offered_nothing)
{
    struct nodes n;

    nodes_begin(&n);
    for (int i = 0; i < 2; i++) {
        struct tls_buffers *off = i ? &n.server.buffers : &n.client.buffers;
        struct tls_resumption *r = off->resumption;

        off->resumption = NULL;
        cr_expect(!meet(&n, n.world.c, n.world.s));
        off->resumption = r;
        for (int k = 0; k < 2; k++)
            cr_expect(!session_store_any((k ? &n.server : &n.client)->resumption.sessions[k]));
    }
    node_destroy(&n.client);
    node_init(&n.client, 0);
    for (int i = 0; i < 2; i++)
        cr_expect(!meet(&n, n.world.c, n.world.s), "switched off");
    cr_expect(!session_store_any(n.server.resumption.sessions[1]), "nothing is kept in vain");
    nodes_end(&n);
}

Test(resumption, a_server_that_has_forgotten_does_a_full_handshake)
{
    struct nodes n;

    nodes_begin(&n);
    meet(&n, n.world.c, n.world.s);
    node_destroy(&n.server);
    node_init(&n.server, 64);
    n.client.resumption.counts[0].resumed = 0;
    cr_expect(!meet(&n, n.world.c, n.world.s), "as after a restart");
    cr_expect(refused_by_server(&n, TLS_REFUSAL_UNKNOWN) == 1);
    cr_expect(refused_by_client(&n, TLS_REFUSAL_DECLINED) == 1);
    cr_expect(meet(&n, n.world.c, n.world.s));
    nodes_end(&n);
}

/* The client of another certificate looks under another key; the server is asked for what it has. */
Test(resumption, a_certificate_that_was_issued_again_begins_anew)
{
    struct nodes n;
    struct tls_context *c, *s;

    nodes_begin(&n);
    c = good(&n.world.ca, CLIENT);
    s = good(&n.world.ca, SERVER);
    meet(&n, n.world.c, n.world.s);
    cr_expect(!meet(&n, c, n.world.s), "the client's");
    cr_expect(meet(&n, c, n.world.s));
    cr_expect(!meet(&n, c, s), "the server's");
    cr_expect(refused_by_server(&n, TLS_REFUSAL_OWN_CERTIFICATE) == 1);
    cr_expect(meet(&n, c, s));
    cr_expect(meet(&n, n.world.c, s) == false && refused_by_client(&n, TLS_REFUSAL_OWN_CERTIFICATE) == 0,
              "each certificate has sessions of its own");
    tls_context_unref(c);
    tls_context_unref(s);
    nodes_end(&n);
}

/* The same certificate, and one root more that it is looked at by. */
static struct tls_context *with_more_roots(const struct nodes *n, const char *identity)
{
    struct test_ca more = test_ca();
    EVP_PKEY *key = EVP_EC_gen("prime256v1");
    char san[200], error[200], *leaf;
    struct tls_context *c;
    X509 *cert;

    snprintf(san, sizeof(san), "critical,URI:%s", identity);
    cert = test_certificate(key, n->world.ca.cert, n->world.ca.key, san, -60, 3600);
    leaf = test_pem(cert);
    {
        const char *chain[] = {leaf}, *roots[] = {n->world.ca.pem, more.pem};

        cr_assert(tls_context_new(identity, key, chain, 1, roots, 2, &c, error, sizeof(error)) == 0);
    }
    free(leaf);
    X509_free(cert);
    EVP_PKEY_free(key);
    test_ca_free(&more);
    return c;
}

Test(resumption, another_trust_bundle_begins_anew_on_either_side)
{
    struct nodes n;

    nodes_begin(&n);
    for (int server = 0; server < 2; server++) {
        struct tls_context *own = server ? n.world.s : n.world.c,
                           *more = with_more_roots(&n, server ? SERVER : CLIENT);

        /* the certificate is as it was, to this one's eyes */
        memcpy(more->leaf_digest, own->leaf_digest, sizeof(own->leaf_digest));
        meet(&n, n.world.c, n.world.s);
        cr_expect(!meet(&n, server ? n.world.c : more, server ? more : n.world.s));
        cr_expect((server ? refused_by_server(&n, TLS_REFUSAL_ROOTS)
                          : refused_by_client(&n, TLS_REFUSAL_ROOTS)) == 1);
        cr_expect(meet(&n, server ? n.world.c : more, server ? more : n.world.s), "and from there on");
        tls_context_unref(more);
    }
    nodes_end(&n);
}

static struct crl_set *lists(const struct test_ca *ca, X509 *revoked)
{
    char path[] = "/tmp/bruma-resumption-XXXXXX", error[160];
    struct crl_set *set = NULL;
    int fd = mkstemp(path);

    cr_assert(fd >= 0);
    test_crl_write(path, ca, ca->key, revoked, true);
    cr_assert(crl_load(path, &set, error, sizeof(error)) == 0, "%s", error);
    close(fd);
    unlink(path);
    return set;
}

static void set_lists(struct node *n, struct crl_set *set)
{
    crl_unref(n->buffers.revoked);
    n->buffers.revoked = set;
}

Test(resumption, new_revocation_lists_begin_anew_on_either_side)
{
    struct nodes n;

    nodes_begin(&n);
    for (int server = 0; server < 2; server++) {
        struct node *node = server ? &n.server : &n.client;

        set_lists(node, lists(&n.world.ca, NULL));
        meet(&n, n.world.c, n.world.s);
        cr_expect(meet(&n, n.world.c, n.world.s), "the same lists");
        set_lists(node, lists(&n.world.ca, NULL));
        cr_expect(!meet(&n, n.world.c, n.world.s), "others, of which none names the peer");
        cr_expect((server ? refused_by_server(&n, TLS_REFUSAL_LISTS)
                          : refused_by_client(&n, TLS_REFUSAL_LISTS)) == 1);
        set_lists(node, NULL);
    }
    nodes_end(&n);
}

/* The chain came by the full handshake, and is there for lists that come later. */
Test(resumption, a_peer_that_was_resumed_can_be_revoked)
{
    struct nodes n;
    struct crl_set *later;
    struct pair p;
    int a, b;

    nodes_begin(&n);
    later = lists(&n.world.ca, SSL_CTX_get0_certificate(n.world.c->server));
    set_lists(&n.server, lists(&n.world.ca, NULL));
    meet(&n, n.world.c, n.world.s);
    for (int i = 0; i < 2; i++) {
        face(&p, &n, n.world.c, n.world.s, SERVER);
        handshake(&p, &a, &b);
        cr_assert(a == 1 && b == 1 && resumed(&n) == (unsigned long)i + 1);
        cr_expect(!tls_peer_revoked(&p.server) && sk_X509_num(p.server.peer_chain) == 2);
        if (i == 1) {
            set_lists(&n.server, crl_ref(later));
            cr_expect(tls_peer_revoked(&p.server));
        }
        part(&p);
    }
    face(&p, &n, n.world.c, n.world.s, SERVER);
    handshake(&p, &a, &b);
    cr_expect(b < 0 && p.server.reason == BRUMA_REASON_CERTIFICATE_REVOKED, "%s", p.server.error);
    part(&p);
    crl_unref(later);
    nodes_end(&n);
}

Test(resumption, what_has_expired_or_is_too_old_begins_anew_on_either_side)
{
    static const enum tls_refusal whys[] = {TLS_REFUSAL_EXPIRED, TLS_REFUSAL_AGE, TLS_REFUSAL_AGE};
    struct nodes n;

    nodes_begin(&n);
    for (int server = 0; server < 2; server++) {
        for (int what = 0; what < 3; what++) {
            struct tls_session *s;
            unsigned long before;

            meet(&n, n.world.c, n.world.s);
            s = kept(server ? &n.server : &n.client, server);
            if (what == 0)
                s->peer_until = wall_seconds();
            else if (what == 1)
                s->since = wall_seconds() - 3600;
            else
                s->since = wall_seconds() + 60; /* the clock was set back */
            before = server ? refused_by_server(&n, whys[what]) : refused_by_client(&n, whys[what]);
            cr_expect(!meet(&n, n.world.c, n.world.s), "%d", what);
            cr_expect((server ? refused_by_server(&n, whys[what]) : refused_by_client(&n, whys[what])) ==
                      before + 1);
        }
    }
    nodes_end(&n);
}

/* A chain of resumed handshakes goes back to one that was not, and is as old as that. */
Test(resumption, each_goes_back_to_the_full_handshake)
{
    struct nodes n;
    int64_t since;

    nodes_begin(&n);
    meet(&n, n.world.c, n.world.s);
    since = kept(&n.client, false)->since -= 1000;
    kept(&n.server, true)->since -= 1000;
    for (int i = 0; i < 3; i++) {
        cr_expect(meet(&n, n.world.c, n.world.s));
        cr_expect(kept(&n.client, false)->since == since && kept(&n.server, true)->since == since);
    }
    nodes_end(&n);
}

/* The server at that place was somebody else's, or the destination has another identity by now. */
Test(resumption, another_destination_is_not_met_by_what_was_verified_of_the_first)
{
    struct nodes n;
    struct tls_context *other;
    struct tls_session *s;

    nodes_begin(&n);
    other = good(&n.world.ca, "spiffe://cluster.local/ns/shop/sa/other");
    meet(&n, n.world.c, n.world.s);
    cr_expect(!meet(&n, n.world.c, other), "under another key");
    s = session_store_any(n.client.resumption.sessions[0]);
    cr_assert(meet(&n, n.world.c, n.world.s) && (s = kept(&n.client, false)));
    strcpy(s->peer_identity, "spiffe://cluster.local/ns/shop/sa/nobo"); /* no longer than it was */
    cr_expect(!meet(&n, n.world.c, n.world.s));
    cr_expect(refused_by_client(&n, TLS_REFUSAL_IDENTITY) == 1);
    tls_context_unref(other);
    nodes_end(&n);
}

/* Both pods are of one proxy, whose sessions are in one store. */
Test(resumption, a_session_with_one_pod_of_a_node_is_none_with_another)
{
    struct nodes n;
    struct tls_context *other;
    struct pair p;
    int a, b;

    nodes_begin(&n);
    other = good(&n.world.ca, "spiffe://cluster.local/ns/shop/sa/other");
    meet(&n, n.world.c, n.world.s);
    face(&p, &n, n.world.c, other, SERVER);
    handshake(&p, &a, &b);
    cr_expect(a < 0 && p.client.reason == BRUMA_REASON_PEER_IDENTITY_MISMATCH, "%s", p.client.error);
    cr_expect(refused_by_server(&n, TLS_REFUSAL_OWN_CERTIFICATE) == 1);
    part(&p);
    tls_context_unref(other);
    nodes_end(&n);
}

/* What holds when it is looked up may hold no longer when the other side has answered. */
Test(resumption, what_ends_during_the_handshake_ends_it)
{
    struct nodes n;
    struct crl_set *named;
    struct pair p;
    int b;

    nodes_begin(&n);
    named = lists(&n.world.ca, SSL_CTX_get0_certificate(n.world.s->server));
    set_lists(&n.client, lists(&n.world.ca, NULL));
    for (int i = 0; i < 3; i++) {
        meet(&n, n.world.c, n.world.s);
        face(&p, &n, n.world.c, n.world.s, SERVER);
        cr_assert(tls_handshake(&p.client) == 0 && p.client.session, "it has offered it");
        if (i == 0)
            p.client.session->peer_until = wall_seconds();
        else
            set_lists(&n.client, i == 1 ? lists(&n.world.ca, NULL) : crl_ref(named));
        cr_assert(tls_handshake(&p.server) == 0);
        b = tls_handshake(&p.client);
        if (i == 1)
            cr_expect(b == 1, "lists that do not name it: %s", p.client.error);
        else
            cr_expect(b == -EPROTO && p.client.reason == (i ? BRUMA_REASON_CERTIFICATE_REVOKED
                                                            : BRUMA_REASON_PEER_UNTRUSTED));
        part(&p);
        n.server.resumption.counts[1].resumed = n.client.resumption.counts[0].resumed;
    }
    crl_unref(named);
    nodes_end(&n);
}

/* A socket that gives so many bytes and no more. */
struct narrow {
    struct tls_carrier carrier;
    int fd;
    size_t left;
};

static ssize_t narrow_receive(struct tls_carrier *carrier, uint8_t *buf, size_t size)
{
    struct narrow *n = container_of(carrier, struct narrow, carrier);
    ssize_t r = n->left ? recv(n->fd, buf, size < n->left ? size : n->left, 0) : -EAGAIN;

    if (r < 0)
        return -EAGAIN;
    n->left -= (size_t)r;
    return r;
}

static ssize_t narrow_send(struct tls_carrier *carrier, const uint8_t *data, size_t len)
{
    return send(container_of(carrier, struct narrow, carrier)->fd, data, len, 0);
}

#define FINISHED_RECORD (5 + 4 + 48 + 1 + 16)

/* It has shown its certificate, and takes its time with the rest. */
Test(resumption, a_client_that_is_revoked_before_its_handshake_is_done_is_refused)
{
    for (int named = 0; named < 2; named++) {
        struct narrow narrow = {.carrier = {.receive = narrow_receive, .send = narrow_send}, .left = SIZE};
        struct nodes n;
        struct pair p;
        int there, r;

        nodes_begin(&n);
        set_lists(&n.server, lists(&n.world.ca, NULL));
        face(&p, &n, n.world.c, n.world.s, SERVER);
        narrow.fd = p.fds[1];
        p.server.carrier = &narrow.carrier;
        cr_assert(tls_handshake(&p.client) == 0 && tls_handshake(&p.server) == 0 &&
                  tls_handshake(&p.client) == 1);
        cr_assert(ioctl(p.fds[1], FIONREAD, &there) == 0 && there > FINISHED_RECORD);
        narrow.left = (size_t)there - FINISHED_RECORD;
        cr_assert(tls_handshake(&p.server) == 0, "all but the end: %s", p.server.error);
        cr_assert_str_eq(p.server.peer_identity, CLIENT);
        set_lists(&n.server, lists(&n.world.ca, named ? SSL_CTX_get0_certificate(n.world.c->client) : NULL));
        narrow.left = SIZE;
        r = tls_handshake(&p.server);
        if (named)
            cr_expect(r == -EPROTO && p.server.reason == BRUMA_REASON_CERTIFICATE_REVOKED &&
                          !session_store_any(n.server.resumption.sessions[1]),
                      "%s", p.server.error);
        else
            cr_expect(r == 1, "%s", p.server.error);
        part(&p);
        nodes_end(&n);
    }
}

/* The client has it twice, as one would that replays what it has heard. */
Test(resumption, a_session_is_good_for_one_handshake)
{
    struct nodes n;
    struct tls_session *s, *copy;

    nodes_begin(&n);
    meet(&n, n.world.c, n.world.s);
    s = kept(&n.client, false);
    copy = tls_session_new(strlen(s->peer_identity));
    memcpy(copy, s, sizeof(*s) + strlen(s->peer_identity) + 1);
    list_init(&copy->age);
    cr_expect(meet(&n, n.world.c, n.world.s));
    /* it is taken before the one of the second handshake */
    session_store_put(n.client.resumption.sessions[0], copy);
    cr_expect(!meet(&n, n.world.c, n.world.s));
    cr_expect(refused_by_server(&n, TLS_REFUSAL_UNKNOWN) == 1);
    nodes_end(&n);
}

/* Who has heard the name of a session, and does not have its secret, gets nothing; and it is used up. */
Test(resumption, a_name_without_its_secret_is_refused)
{
    struct nodes n;
    struct pair p;
    int a, b;

    nodes_begin(&n);
    meet(&n, n.world.c, n.world.s);
    kept(&n.client, false)->secret[0] ^= 1;
    face(&p, &n, n.world.c, n.world.s, SERVER);
    handshake(&p, &a, &b);
    cr_expect(b < 0 && p.server.reason == BRUMA_REASON_TLS_HANDSHAKE_FAILED, "%s", p.server.error);
    cr_expect(!p.server.peer_identity[0] && !p.server.established);
    part(&p);
    cr_expect(!session_store_any(n.server.resumption.sessions[1]));
    cr_expect(!meet(&n, n.world.c, n.world.s));
    nodes_end(&n);
}

/* A server without a certificate that would do, and with the name of a session. */
Test(resumption, a_server_that_makes_up_a_session_is_refused)
{
    struct nodes n;
    struct pair p;
    int a, b;

    nodes_begin(&n);
    meet(&n, n.world.c, n.world.s);
    kept(&n.server, true)->secret[0] ^= 1;
    face(&p, &n, n.world.c, n.world.s, SERVER);
    handshake(&p, &a, &b);
    cr_expect(a < 0 || b < 0);
    cr_expect(!p.client.established && !p.client.peer_identity[0]);
    part(&p);
    nodes_end(&n);
}
