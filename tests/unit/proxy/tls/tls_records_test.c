/* SPDX-License-Identifier: Apache-2.0 */
/* After the handshake: new keys, messages in pieces, and peers that do not keep the rules. */
#include <criterion/criterion.h>
#include <errno.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "proxy/tls/tls_library.h"
#include "tests/unit/proxy/tls/tls_pair.h"

TestSuite(tls_records, .init = tls_library_init, .timeout = 60);

static const uint8_t ask[] = {24, 0, 0, 1, 1}, new_keys[] = {24, 0, 0, 1, 0};

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

/* Two connections of one worker: what the one is asked for is not sent by the other. */
Test(tls_records, new_keys_that_are_asked_for_stay_with_their_connection)
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

Test(tls_records, a_connection_that_ends_leaves_nothing_in_shared_buffers)
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

Test(tls_records, who_takes_another_connections_buffer_ends_the_process, .signal = SIGABRT)
{
    struct world w = world();
    struct pair a = {}, b = {};

    established(&a, w.c, w.s);
    established(&b, w.c, w.s);
    b.server.buffers = a.server.buffers;
    cr_assert(tls_write(&a.server, (const uint8_t *)"x", 1) == 0);
    tls_write(&b.server, (const uint8_t *)"y", 1);
}

Test(tls_records, many_questions_have_one_answer)
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

Test(tls_records, new_keys_without_data_between_have_a_bound)
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

Test(tls_records, who_asks_and_does_not_read_is_not_read_from)
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
Test(tls_records, handshake_messages_may_come_in_pieces)
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

Test(tls_records, handshake_messages_that_break_rules_are_refused)
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
