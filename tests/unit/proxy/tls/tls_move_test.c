/* SPDX-License-Identifier: Apache-2.0 */
/* Connections whose ends go on elsewhere, as if in another process. */
#include <criterion/criterion.h>
#include <errno.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#include "bruma/handover.h"
#include "proxy/tls/crl.h"
#include "proxy/tls/tls_library.h"
#include "proxy/tls/tls_move.h"
#include "tests/unit/proxy/golden.h"
#include "tests/unit/proxy/tls/tls_pair.h"

static void begin(void)
{
    signal(SIGPIPE, SIG_IGN);
    tls_library_init();
}

TestSuite(tls_move, .init = begin, .timeout = 60);

static const uint8_t ask[] = {24, 0, 0, 1, 1}, new_keys[] = {24, 0, 0, 1, 0};
static struct tls_buffers elsewhere[2]; /* of two other processes */
static struct world w;
static struct pair p;
static char taken[SIZE];

static void set_up(void)
{
    w = world();
    p = (struct pair){};
    established(&p, w.c, w.s);
    for (int i = 0; i < 2; i++)
        cr_assert(tls_buffers_init(&elsewhere[i], SIZE) == 0);
}

static void tear_down(void)
{
    end(&p);
    for (int i = 0; i < 2; i++)
        tls_buffers_destroy(&elsewhere[i]);
    world_end(&w);
}

static int read_back(const struct wire_writer *unit, bool server, struct tls *ret, const char **ret_why)
{
    struct tls *from = server ? &p.server : &p.client;
    int side = from->server;

    return tls_move_read(ret, from->buffers == &elsewhere[side] ? &p.buffers[side] : &elsewhere[side],
                         from->fd, server, unit->data, unit->len, ret_why);
}

/* From one process to another, and from there back with the next call. */
static void move(struct tls *tls)
{
    struct wire_writer unit = {.secret = true};
    const char *why = "";
    struct tls next;

    cr_assert(tls_move_write(tls, &unit) == 0);
    cr_assert(read_back(&unit, tls->server, &next, &why) == 0, "%s", why);
    wire_writer_clear(&unit);
    tls_destroy(tls);
    *tls = next;
}

static void put(struct tls *from, const char *text)
{
    cr_assert(tls_write(from, (const uint8_t *)text, strlen(text)) == 0 && tls_flush(from) >= 0);
}

static bool came(struct tls *to, const char *text)
{
    bool more;

    return tls_read(to, (uint8_t *)taken, sizeof(taken), &more) == (ssize_t)strlen(text) &&
           !memcmp(taken, text, strlen(text));
}

static bool passes(struct tls *from, struct tls *to, const char *text)
{
    put(from, text);
    return came(to, text);
}

static void put_raw(struct tls *from, enum record_type type, const uint8_t *message, size_t len)
{
    uint8_t record[1024];
    long n = record_seal(&from->seal, type, message, len, record);

    cr_assert(n > 0 && send(from->fd, record, (size_t)n, 0) == n);
}

Test(tls_move, both_ends_go_on)
{
    set_up();
    cr_assert(passes(&p.client, &p.server, "before") && passes(&p.server, &p.client, "and back"));
    for (int i = 0; i < 6; i++) {
        move(i & 1 ? &p.client : &p.server);
        cr_assert(passes(&p.client, &p.server, "one") && passes(&p.server, &p.client, "two"));
    }
    cr_expect_str_eq(p.client.peer_identity, SERVER);
    cr_expect_str_eq(p.server.peer_identity, CLIENT);
    cr_expect(!tls_peer_expired(&p.server) && tls_peer_time_left(&p.server) <= 3600 * 1000);
    tear_down();
}

/* Each beginning of a record may be all that has come. */
Test(tls_move, record_in_two_pieces)
{
    uint8_t record[64];
    bool more;

    set_up();
    for (size_t cut = 0; cut <= 11 + RECORD_OVERHEAD; cut++) {
        long n = record_seal(&p.client.seal, RECORD_DATA, (const uint8_t *)"hello world", 11, record);

        cr_assert(n == 11 + RECORD_OVERHEAD);
        cr_assert(send(p.client.fd, record, cut, 0) == (ssize_t)cut);
        cr_assert(tls_read(&p.server, (uint8_t *)taken, sizeof(taken), &more) == (cut == (size_t)n ? 11 : 0));
        move(&p.server);
        cr_assert(p.server.partial_len == (cut == (size_t)n ? 0 : cut));
        cr_assert(send(p.client.fd, record + cut, (size_t)n - cut, 0) == n - (ssize_t)cut);
        cr_assert(cut == (size_t)n || came(&p.server, "hello world"));
    }
    cr_assert(passes(&p.client, &p.server, "all is well"));
    tear_down();
}

Test(tls_move, records_that_the_socket_has_not_taken)
{
    struct budget process = {}, pod = {};
    struct budget_share share = {.process = &process, .pod = &pod};
    static uint8_t block[RECORD_PLAIN_MAX];
    struct wire_writer unit = {.secret = true};
    size_t sent = 0, received = 0, held;
    const char *why = "";
    struct tls next;
    bool more;

    set_up();
    while (!tls_blocked(&p.client)) {
        memset(block, (int)(sent / sizeof(block)), sizeof(block));
        cr_assert(tls_write(&p.client, block, sizeof(block)) == 0 && tls_flush(&p.client) >= 0);
        sent += sizeof(block);
    }
    held = p.client.pending_len - p.client.pending_offset;
    cr_assert(tls_move_write(&p.client, &unit) == 0);
    cr_assert(tls_move_read(&next, &elsewhere[0], p.client.fd, false, unit.data, unit.len, &why) == 0);
    tls_move_count(&next, &share);
    cr_expect(next.account.held == held && process.used == held);
    tls_destroy(&next);
    cr_expect(process.used == 0, "it gives back what it has not sent");
    process.limit = held / 2;
    cr_assert(tls_move_read(&next, &elsewhere[0], p.client.fd, false, unit.data, unit.len, &why) == 0);
    tls_move_count(&next, &share);
    cr_expect(next.pending && next.account.held == 0 && process.used == 0, "it may be more than is allowed");
    tls_destroy(&next);
    wire_writer_clear(&unit);
    move(&p.client);
    cr_expect(tls_blocked(&p.client));
    while (received < sent) {
        ssize_t n = tls_read(&p.server, (uint8_t *)taken, sizeof(taken), &more);

        cr_assert(n >= 0);
        for (ssize_t i = 0; i < n; i++, received++)
            cr_assert((uint8_t)taken[i] == (uint8_t)(received / sizeof(block)));
        cr_assert(tls_flush(&p.client) >= 0);
    }
    cr_expect(!tls_blocked(&p.client));
    tear_down();
}

/* The secret that travels is that of the keys in use, whichever generation they are of. */
Test(tls_move, keys_of_later_generations)
{
    bool more;

    set_up();
    for (int i = 0; i < 4; i++) {
        put_raw(&p.client, RECORD_HANDSHAKE, new_keys, sizeof(new_keys));
        cr_assert(record_key_update(&p.client.seal) == 0);
        cr_assert(passes(&p.client, &p.server, "under new keys"));
        move(&p.server);
        cr_assert(passes(&p.client, &p.server, "x") && passes(&p.server, &p.client, "y"));
    }
    put_raw(&p.client, RECORD_HANDSHAKE, ask, sizeof(ask));
    cr_assert(record_key_update(&p.client.seal) == 0);
    cr_assert(tls_read(&p.server, (uint8_t *)taken, sizeof(taken), &more) == 0);
    cr_assert(tls_wants_flush(&p.server));
    move(&p.server);
    cr_expect(tls_wants_flush(&p.server), "the answer is still owed");
    cr_assert(tls_flush(&p.server) == 0);
    cr_assert(passes(&p.server, &p.client, "after the answer") && passes(&p.client, &p.server, "as well"));
    tear_down();
}

Test(tls_move, handshake_message_in_pieces)
{
    bool more;

    set_up();
    for (size_t cut = 1; cut < sizeof(new_keys); cut++) {
        put_raw(&p.client, RECORD_HANDSHAKE, new_keys, cut);
        cr_assert(tls_read(&p.server, (uint8_t *)taken, sizeof(taken), &more) == 0);
        move(&p.server);
        put_raw(&p.client, RECORD_HANDSHAKE, new_keys + cut, sizeof(new_keys) - cut);
        cr_assert(record_key_update(&p.client.seal) == 0);
        cr_assert(passes(&p.client, &p.server, "under new keys"), "cut behind %zu bytes", cut);
    }
    tear_down();
}

/* Updates of keys without data between are counted on. */
Test(tls_move, does_not_forgive_a_flood)
{
    bool more;
    ssize_t n = 0;

    set_up();
    for (int i = 0; i < TLS_KEY_UPDATES && n == 0; i++) {
        put_raw(&p.client, RECORD_HANDSHAKE, new_keys, sizeof(new_keys));
        cr_assert(record_key_update(&p.client.seal) == 0);
        n = tls_read(&p.server, (uint8_t *)taken, sizeof(taken), &more);
        move(&p.server);
    }
    cr_assert(n == 0);
    put_raw(&p.client, RECORD_HANDSHAKE, new_keys, sizeof(new_keys));
    cr_expect(tls_read(&p.server, (uint8_t *)taken, sizeof(taken), &more) == -EPROTO &&
              p.server.reason == BRUMA_REASON_KEY_UPDATE_FLOOD);
    tear_down();
}

Test(tls_move, does_not_move_in_these_states)
{
    struct wire_writer unit = {.secret = true};
    struct pair fresh = {};
    bool more;

    set_up();
    start(&fresh, w.c, w.s, SERVER);
    cr_expect(tls_move_write(&fresh.client, &unit) == -EAGAIN, "no handshake yet");
    tls_shutdown(&p.client);
    cr_assert(tls_read(&p.server, (uint8_t *)taken, sizeof(taken), &more) == -EPIPE);
    cr_expect(tls_move_write(&p.server, &unit) == -EAGAIN, "the peer has closed");
    cr_expect(unit.len == 0);
    end(&fresh);
    tear_down();
}

/* A unit of one field less, or one that is not known, or cut off anywhere. */
Test(tls_move, refuses_what_it_cannot_know)
{
    struct wire_writer unit = {.secret = true}, other = {};
    const char *why = "";
    struct wire_reader reader;
    struct wire_field f;
    struct tls next;
    size_t whole, fields = 0;

    set_up();
    cr_assert(tls_move_write(&p.server, &unit) == 0);
    whole = unit.len;
    wire_put_varint(&unit, 1001, 5);
    wire_put_string(&unit, 1003, "of a later release");
    cr_expect(read_back(&unit, true, &next, &why) == 0, "odd numbers may be passed over");
    tls_destroy(&next);
    wire_put_varint(&unit, 1002, 5);
    cr_expect(read_back(&unit, true, &next, &why) == -EPROTONOSUPPORT && strstr(why, "not known"));
    unit.len = whole;
    for (; unit.len; unit.len--)
        cr_assert(unit.len == whole || read_back(&unit, true, &next, &why) < 0, "%zu bytes", unit.len);
    unit.len = whole;
    for (size_t left_out = 0; left_out < 7; left_out++) {
        reader = wire_reader(unit.data, whole);
        for (fields = 0; wire_next(&reader, &f) > 0; fields++) {
            if (fields != left_out && f.type == WIRE_BYTES)
                wire_put_bytes(&other, f.number, f.bytes, f.len);
            else if (fields != left_out)
                wire_put_varint(&other, f.number, f.value);
        }
        /* a sequence number may be nought */
        cr_expect(read_back(&other, true, &next, &why) == (left_out == 2 || left_out == 4 ? 0 : -EBADMSG),
                  "field %zu", left_out);
        if (next.established)
            tls_destroy(&next);
        wire_writer_clear(&other);
    }
    cr_expect(fields == 7);
    wire_put_string(&other, BRUMA_TLS_SUITE, "TLS_CHACHA20_POLY1305_SHA256");
    reader = wire_reader(unit.data, whole);
    while (wire_next(&reader, &f) > 0 && f.number != BRUMA_TLS_SUITE)
        ;
    for (; wire_next(&reader, &f) > 0;) {
        if (f.type == WIRE_BYTES)
            wire_put_bytes(&other, f.number, f.bytes, f.len);
        else
            wire_put_varint(&other, f.number, f.value);
    }
    cr_expect(read_back(&other, true, &next, &why) == -EPROTONOSUPPORT && strstr(why, "suite"));
    wire_writer_clear(&other);
    wire_writer_clear(&unit);
    tear_down();
}

/* Where lists are kept, a peer's certificate is looked up in them before its connection is taken on. */
Test(tls_move, asks_revocation_lists)
{
    char path[] = "/tmp/tls-move-crl-XXXXXX", error[256];
    struct wire_writer with = {.secret = true}, without = {.secret = true};
    struct crl_set *lists = NULL;
    const char *why = "";
    struct tls next;
    int fd = mkstemp(path);

    set_up();
    cr_assert(fd >= 0 && crl_load(path, &lists, error, sizeof(error)) == 0, "%s", error);
    cr_assert(tls_move_write(&p.server, &without) == 0);
    p.server.peer_chain = sk_X509_new_null();
    cr_assert(sk_X509_push(p.server.peer_chain, X509_dup(w.ca.cert)));
    cr_assert(tls_move_write(&p.server, &with) == 0);
    cr_assert(read_back(&with, true, &next, &why) == 0);
    cr_expect(sk_X509_num(next.peer_chain) == 1 &&
              X509_cmp(sk_X509_value(next.peer_chain, 0), w.ca.cert) == 0);
    tls_destroy(&next);
    elsewhere[1].revoked = crl_ref(lists);
    cr_assert(read_back(&with, true, &next, &why) == 0, "it is not revoked");
    tls_destroy(&next);
    cr_expect(read_back(&without, true, &next, &why) == -EKEYREVOKED, "nobody can tell");
    crl_unref(lists);
    close(fd);
    unlink(path);
    wire_writer_clear(&with);
    wire_writer_clear(&without);
    tear_down();
}

/* What a release of today has written must be read by all later ones. */
Test(tls_move, golden)
{
    struct wire_writer unit = {};
    uint8_t record[64], *expected;
    const char *why = "";
    size_t len;
    struct tls tls;
    long n;

    golden_read("tls.hex", &unit.data, &unit.len);
    cr_assert(tls_buffers_init(&elsewhere[0], SIZE) == 0);
    cr_assert(tls_move_read(&tls, &elsewhere[0], -1, true, unit.data, unit.len, &why) == 0, "%s", why);
    cr_expect_str_eq(tls.peer_identity, "spiffe://cluster.local/ns/shop/sa/web");
    cr_expect(tls.peer_until == 4102444800 && tls.seal.sequence == 7 && tls.open.sequence == 300);
    cr_expect(tls.partial_len == 3 && tls.pending_len == 5 && tls.answer_owed && !tls.asked_again);
    cr_expect(tls.messages.head_len == 4 && tls.messages.body_left == 100 && tls.messages.debt == 512);
    n = record_seal(&tls.seal, RECORD_DATA, (const uint8_t *)"golden", 6, record);
    golden_read("tls-record.hex", &expected, &len);
    cr_expect(n == (long)len && !memcmp(record, expected, len));
    tls_destroy(&tls);
    tls_buffers_destroy(&elsewhere[0]);
    free(unit.data);
    free(expected);
}
