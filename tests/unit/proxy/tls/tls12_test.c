/* SPDX-License-Identifier: Apache-2.0 */
/* Connections of TLS 1.2, whose records are others than those of 1.3. */
#include <criterion/criterion.h>
#include <errno.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#include "bruma/handover.h"
#include "lib/cleanup.h"
#include "lib/tls_policy.h"
#include "proxy/tls/tls_library.h"
#include "proxy/tls/tls_move.h"
#include "tests/unit/proxy/tls/tls_pair.h"

static void choose(bool tls12)
{
    char error[400];

    cr_assert(tls_policy_choose("", tls12, "", error, sizeof(error)) == 0, "%s", error);
}

static void begin(void)
{
    signal(SIGPIPE, SIG_IGN);
    choose(true);
    tls_library_init();
}

TestSuite(tls12, .init = begin, .timeout = 60);

static struct world w;
static struct pair p;
static char taken[SIZE];

/* suites: what the client offers of 1.2, in OpenSSL's words; NULL: all. */
static void meet(const char *suites, int *client, int *server)
{
    start(&p, w.c, w.s, SERVER);
    cr_assert(SSL_set_max_proto_version(p.client.ssl, TLS1_2_VERSION));
    cr_assert(!suites || SSL_set_cipher_list(p.client.ssl, suites));
    handshake(&p, client, server);
}

static void set_up(const char *suites)
{
    int client, server;

    w = world();
    p = (struct pair){};
    meet(suites, &client, &server);
    cr_assert(client == 1 && server == 1, "%s / %s", p.client.error, p.server.error);
}

static void tear_down(void)
{
    end(&p);
    world_end(&w);
}

static bool passes(struct tls *from, struct tls *to, const char *text)
{
    bool more;

    cr_assert(tls_write(from, (const uint8_t *)text, strlen(text)) == 0 && tls_flush(from) == 0);
    return tls_read(to, (uint8_t *)taken, sizeof(taken), &more) == (ssize_t)strlen(text) &&
           !memcmp(taken, text, strlen(text));
}

Test(tls12, each_suite_carries_both_ways)
{
    static const char *const names[] = {"ECDHE-ECDSA-AES256-GCM-SHA384", "ECDHE-ECDSA-AES128-GCM-SHA256"};

    for (size_t i = 0; i < array_size(names); i++) {
        set_up(names[i]);
        cr_expect_str_eq(p.client.seal.suite->name, names[i]);
        cr_expect_str_eq(p.server.peer_identity, CLIENT);
        cr_expect_str_eq(p.client.peer_identity, SERVER);
        for (int turn = 0; turn < 3; turn++) {
            cr_expect(passes(&p.client, &p.server, "ask"));
            cr_expect(passes(&p.server, &p.client, "answer"));
        }
        tear_down();
    }
}

Test(tls12, much_data_and_the_end)
{
    static uint8_t block[5 * RECORD_PLAIN_MAX + 1];
    size_t received = 0;
    bool more;
    ssize_t n;

    set_up(NULL);
    for (size_t i = 0; i < sizeof(block); i++)
        block[i] = (uint8_t)(i % 251);
    cr_assert(tls_write(&p.client, block, sizeof(block)) == 0 && tls_flush(&p.client) >= 0);
    while (received < sizeof(block)) {
        n = tls_read(&p.server, (uint8_t *)taken, sizeof(taken), &more);
        cr_assert(n >= 0, "%s", p.server.error);
        cr_assert(!memcmp(taken, block + received, (size_t)n));
        received += (size_t)n;
        cr_assert(tls_flush(&p.client) >= 0);
    }
    tls_shutdown(&p.client);
    cr_expect(tls_read(&p.server, (uint8_t *)taken, sizeof(taken), &more) == -EPIPE);
    tear_down();
}

/* What is not AES-GCM with ECDHE is not agreed upon, whatever a client would like. */
Test(tls12, other_suites_are_refused)
{
    static const char *const names[] = {"ECDHE-ECDSA-CHACHA20-POLY1305", "ECDHE-ECDSA-AES256-SHA384",
                                        "DHE-RSA-AES256-GCM-SHA384:AES256-GCM-SHA384"};
    int client, server;

    for (size_t i = 0; i < array_size(names); i++) {
        w = world();
        meet(names[i], &client, &server);
        cr_expect(client < 0 || server < 0, "%s", names[i]);
        tear_down();
    }
}

Test(tls12, nor_is_it_at_all_where_it_is_not_enabled)
{
    int client, server;

    choose(false);
    w = world();
    start(&p, w.c, w.s, SERVER);
    cr_assert(SSL_set_min_proto_version(p.client.ssl, TLS1_2_VERSION) &&
              SSL_set_max_proto_version(p.client.ssl, TLS1_2_VERSION));
    handshake(&p, &client, &server);
    cr_expect(server == -EPROTO && p.server.reason == BRUMA_REASON_TLS_HANDSHAKE_FAILED, "%s",
              p.server.error);
    tear_down();
}

Test(tls12, both_speak_13_if_they_can)
{
    w = world();
    established(&p, w.c, w.s);
    cr_expect(!p.client.seal.suite->tls12);
    tear_down();
}

/* The next record of the client's, changed by one byte or in its length. */
static void refused(size_t at, uint8_t change, size_t left_out)
{
    uint8_t record[64];
    bool more;
    long n;

    set_up(NULL);
    n = record_seal(&p.client.seal, RECORD_DATA, (const uint8_t *)"hello", 5, record);
    cr_assert(n == 5 + RECORD_OVERHEAD12);
    record[at] ^= change;
    record[4] = (uint8_t)(record[4] - left_out);
    n -= (long)left_out;
    cr_assert(send(p.client.fd, record, (size_t)n, 0) == n);
    cr_expect(tls_read(&p.server, (uint8_t *)taken, sizeof(taken), &more) == -EPROTO, "byte %zu", at);
    cr_expect(p.server.error[0]);
    tear_down();
}

Test(tls12, records_that_are_not_authentic)
{
    refused(0, RECORD_DATA ^ RECORD_ALERT, 0);                /* the type is authenticated */
    refused(0, RECORD_DATA ^ 20, 0);                          /* no change of cipher spec any more */
    refused(1, 1, 0);                                         /* so is the version */
    refused(RECORD_HEADER, 0x80, 0);                          /* the nonce */
    refused(RECORD_HEADER + RECORD_NONCE, 1, 0);              /* the data */
    refused(RECORD_HEADER + RECORD_NONCE + 5, 1, 0);          /* the tag */
    refused(RECORD_HEADER, 0, 1);                             /* the length */
    refused(RECORD_HEADER, 0, 5 + 1);                         /* no room for a tag */
    refused(RECORD_HEADER, 0, 5 + RECORD_NONCE + RECORD_TAG); /* nothing at all */
}

/* A record that is sent again, or out of its turn. */
Test(tls12, records_are_numbered)
{
    uint8_t record[64];
    bool more;
    long n;

    set_up(NULL);
    n = record_seal(&p.client.seal, RECORD_DATA, (const uint8_t *)"hello", 5, record);
    cr_assert(send(p.client.fd, record, (size_t)n, 0) == n);
    cr_assert(tls_read(&p.server, (uint8_t *)taken, sizeof(taken), &more) == 5);
    cr_assert(send(p.client.fd, record, (size_t)n, 0) == n);
    cr_expect(tls_read(&p.server, (uint8_t *)taken, sizeof(taken), &more) == -EPROTO);
    tear_down();
}

Test(tls12, there_is_no_second_handshake)
{
    static const uint8_t hello_request[] = {0, 0, 0, 0};
    uint8_t record[64];
    bool more;
    long n;

    set_up(NULL);
    n = record_seal(&p.server.seal, RECORD_HANDSHAKE, hello_request, sizeof(hello_request), record);
    cr_assert(send(p.server.fd, record, (size_t)n, 0) == n);
    cr_expect(tls_read(&p.client, (uint8_t *)taken, sizeof(taken), &more) == -EPROTO &&
              strstr(p.client.error, "second handshake"));
    tear_down();
}

/* There are no new keys: it is said of either direction that they are used up, and they go on. */
Test(tls12, keys_wear_out)
{
    set_up(NULL);
    p.client.seal.sequence = p.server.open.sequence = (1u << 23) - 1;
    cr_expect(!tls_keys_worn(&p.client) && !tls_keys_worn(&p.server));
    cr_expect(passes(&p.client, &p.server, "the last one"));
    cr_expect(tls_keys_worn(&p.client) && tls_keys_worn(&p.server) && !p.client.answer_owed);
    cr_expect(record_key_update(&p.client.seal) < 0);
    cr_expect(passes(&p.client, &p.server, "as ever") && passes(&p.server, &p.client, "and back"));
    tear_down();
}

Test(tls12, those_of_13_do_not)
{
    w = world();
    established(&p, w.c, w.s);
    p.client.seal.sequence = p.server.open.sequence = 1u << 23;
    cr_expect(!tls_keys_worn(&p.client) && !tls_keys_worn(&p.server));
    cr_expect(passes(&p.client, &p.server, "the last one"));
    cr_expect_eq(p.client.seal.sequence, 0, "under new ones");
    tear_down();
}

Test(tls12, moves_to_another_process)
{
    struct wire_writer unit = {.secret = true};
    struct tls_buffers elsewhere;
    const char *why = "";
    struct tls next;

    set_up(NULL);
    cr_assert(passes(&p.client, &p.server, "before"));
    cr_assert(tls_buffers_init(&elsewhere, SIZE) == 0);
    cr_assert(tls_move_write(&p.server, &unit) == 0);
    choose(false);
    cr_expect(tls_move_read(&next, &elsewhere, p.server.fd, true, unit.data, unit.len, &why) ==
                  -EPROTONOSUPPORT &&
              strstr(why, "1.2 is not enabled"));
    choose(true);
    cr_assert(tls_move_read(&next, &elsewhere, p.server.fd, true, unit.data, unit.len, &why) == 0, "%s", why);
    tls_destroy(&p.server);
    p.server = next;
    cr_expect(passes(&p.client, &p.server, "behind") && passes(&p.server, &p.client, "and back"));
    wire_writer_clear(&unit);
    end(&p);
    tls_buffers_destroy(&elsewhere);
    world_end(&w);
}
