/* SPDX-License-Identifier: Apache-2.0 */
/* What a server of the control plane may ask of TLS while a connection lives. */
#include <criterion/criterion.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "lib/rpc/h2_connection.h"
#include "lib/tls_policy.h"
#include "tests/unit/certificates.h"

#define LIMIT 20000 /* milliseconds, of the handshake */

TestSuite(h2_tls, .timeout = 60);

static struct {
    struct loop *loop;
    struct h2_connection client;
    SSL_CTX *contexts[2];
    SSL *server;
    unsigned ready, down;
} s;

static void on_ready(struct h2_connection *c)
{
    (void)c;
    s.ready++;
}

static void on_down(struct h2_connection *c)
{
    (void)c;
    s.down++;
}

static void stop(void *loop)
{
    loop_stop(loop);
}

static void turn(void)
{
    loop_post(s.loop, stop, s.loop);
    cr_assert(loop_run(s.loop) == 0);
}

static SSL_CTX *server_context(void)
{
    EVP_PKEY *key = EVP_EC_gen("P-256");
    struct test_ca ca = test_ca();
    X509 *cert = test_certificate(key, ca.cert, ca.key, "DNS:istiod", -60, 3600);
    SSL_CTX *c = SSL_CTX_new(TLS_server_method());

    cr_assert(c && SSL_CTX_use_certificate(c, cert) == 1 && SSL_CTX_use_PrivateKey(c, key) == 1);
    X509_free(cert);
    EVP_PKEY_free(key);
    test_ca_free(&ca);
    return c;
}

/* Both ends, and what they have to say until the handshake is done. */
static void set_up(int version)
{
    nghttp2_session_callbacks *callbacks;
    char error[400];
    int fds[2];

    signal(SIGPIPE, SIG_IGN);
    cr_assert(tls_policy_choose("", true, "", error, sizeof(error)) == 0, "%s", error);
    cr_assert(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds) == 0);
    cr_assert(loop_new(&s.loop) == 0);
    s.contexts[0] = SSL_CTX_new(TLS_client_method());
    s.contexts[1] = server_context();
    cr_assert(tls_policy_apply(s.contexts[0]) == 0);
    SSL_CTX_set_max_proto_version(s.contexts[1], version);
    s.server = SSL_new(s.contexts[1]);
    SSL_set_fd(s.server, fds[1]);
    SSL_set_accept_state(s.server);
    s.client = (struct h2_connection){.ready = on_ready, .down = on_down};
    nghttp2_session_callbacks_new(&callbacks);
    cr_assert(nghttp2_session_client_new(&s.client.session, callbacks, NULL) == 0);
    nghttp2_session_callbacks_del(callbacks);
    nghttp2_submit_settings(s.client.session, NGHTTP2_FLAG_NONE, NULL, 0);
    SSL *ssl = SSL_new(s.contexts[0]);
    SSL_set_connect_state(ssl);
    cr_assert(h2_connection_open(&s.client, s.loop, fds[0], ssl, false, LIMIT) == 0);
    for (int i = 0; i < 20 && (!s.ready || !SSL_is_init_finished(s.server)); i++) {
        (void)SSL_do_handshake(s.server);
        turn();
    }
    cr_assert(s.ready == 1 && SSL_version(s.server) == version);
}

static void tear_down(void)
{
    int fd = SSL_get_fd(s.server);

    h2_connection_close(&s.client);
    SSL_free(s.server);
    close(fd);
    for (int i = 0; i < 2; i++)
        SSL_CTX_free(s.contexts[i]);
    loop_free(&s.loop);
}

/* A HelloRequest of 1.2, a KeyUpdate of 1.3; many. */
static void ask(unsigned times)
{
    for (unsigned i = 0; i < times; i++) {
        if (SSL_version(s.server) == TLS1_3_VERSION)
            cr_assert(SSL_key_update(s.server, SSL_KEY_UPDATE_REQUESTED) == 1);
        else
            cr_assert(SSL_renegotiate(s.server) == 1);
        cr_assert(SSL_do_handshake(s.server) == 1);
    }
    for (int i = 0; i < 5; i++)
        turn();
}

static void has_a_bound(int version)
{
    set_up(version);
    ask(30);
    cr_expect(!s.client.closed && !s.down, "%s", s.client.error);
    ask(10);
    cr_expect(s.client.closed && s.down == 1);
    cr_expect(strstr(s.client.error, "again and again"), "%s", s.client.error);
    tear_down();
}

Test(h2_tls, second_handshakes_that_are_asked_for_have_a_bound)
{
    has_a_bound(TLS1_2_VERSION);
}

Test(h2_tls, so_do_new_keys)
{
    has_a_bound(TLS1_3_VERSION);
}
