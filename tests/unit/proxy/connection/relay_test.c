/* SPDX-License-Identifier: Apache-2.0 */
/* What a relay moves: all of it, in order, either way, by copying or by pipes; and what it keeps for who does
 * not read. */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/unit/proxy/connection/pending_scene.h"

#define MANY     (12u << 20)  /* bytes */
#define TOO_MUCH (256u << 20) /* more than the sockets on the way take */
#define SMALL    512

/* One of the two directions. Each byte follows from its place, and no place within 64 KiB is like another. */
struct stream {
    int *from, *to;
    uint64_t len, sent, got;
    bool paused; /* nobody reads */
    bool ended;  /* the reader has seen the end, or a reset: */
    int error;
    int refused; /* errno of the last write that failed */
};
static struct stream there, back;
static uint8_t block[1 << 18];

static uint8_t byte_at(uint64_t i)
{
    return (uint8_t)((i * 2654435761u) >> 13 ^ i >> 16);
}

static void send_more(struct stream *s)
{
    while (s->sent < s->len) {
        size_t size = s->len - s->sent < sizeof(block) ? s->len - s->sent : sizeof(block);
        ssize_t n;

        for (size_t i = 0; i < size; i++)
            block[i] = byte_at(s->sent + i);
        n = send(*s->from, block, size, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (n < 0 && errno != EAGAIN)
            s->refused = errno;
        if (n < 0)
            return;
        s->sent += (uint64_t)n;
    }
}

static void take_some(struct stream *s)
{
    while (!s->paused && !s->ended) {
        ssize_t n = recv(*s->to, block, sizeof(block), MSG_DONTWAIT);

        if (n < 0 && errno == EAGAIN)
            return;
        s->ended = n <= 0;
        s->error = n < 0 ? errno : 0;
        for (ssize_t i = 0; i < n; i++)
            cr_assert(block[i] == byte_at(s->got + (uint64_t)i), "byte %zu", (size_t)s->got + (size_t)i);
        s->got += n > 0 ? (uint64_t)n : 0;
    }
}

static void pump(void)
{
    for (int i = 0; i < 2; i++) {
        struct stream *s = i ? &back : &there;

        if (*s->from >= 0)
            send_more(s);
        if (*s->to >= 0)
            take_some(s);
    }
}

static bool all_arrived(void)
{
    pump();
    return there.got == there.len && back.got == back.len;
}

static bool back_arrived(void)
{
    pump();
    return back.got == back.len;
}

static bool ended_there(void)
{
    pump();
    return there.ended;
}

static bool ended_back(void)
{
    pump();
    return back.ended;
}

/* The sockets take no more, and the relay neither. */
static bool stuck(void)
{
    static uint64_t before;
    static int looks;

    pump();
    looks = there.sent + back.sent == before ? looks + 1 : 0;
    before = there.sent + back.sent;
    return looks == 10;
}

static struct pipes *pipes(void)
{
    return &world.worker->pipes;
}

static unsigned open_pipes(void)
{
    return atomic_load(&pipes()->open);
}

static unsigned long spliced(void)
{
    return atomic_load(&pipes()->spliced);
}

static size_t held(void)
{
    return atomic_load(&world.proxy.memory.used);
}

static int descriptors(void)
{
    return atomic_load(&world.pod->descriptors);
}

static void begin(void)
{
    signal(SIGPIPE, SIG_IGN); /* as the proxy has it */
    scene_begin();
    there = (struct stream){.from = &client, .to = &server};
    back = (struct stream){.from = &server, .to = &client};
    go_out(WORLD_FAR, 0);
    world_until(served, "the other side has a connection");
}

static void send_there(uint64_t len)
{
    there.len += len;
}

static void hang_up(int *fd, bool reset)
{
    struct linger linger = {.l_onoff = 1};

    if (reset)
        cr_assert(setsockopt(*fd, SOL_SOCKET, SO_LINGER, &linger, sizeof(linger)) == 0);
    close(*fd);
    *fd = -1;
}

static void ends(void)
{
    hang_up(&client, false);
    if (server >= 0)
        hang_up(&server, false);
    world_until(none_left, "the relay ends");
    cr_expect(open_pipes() == pipes()->idle_len && open_pipes() <= PIPES_IDLE);
}

/* Bytes of the client for a server that does not read, until nobody takes any more. */
static void fill(void)
{
    there.paused = true;
    send_there(TOO_MUCH);
    world_until(stuck, "nothing moves");
    cr_assert(there.sent < there.len, "%d MiB fit in the sockets", (int)(there.sent >> 20));
    there.len = there.sent;
}

TestSuite(relay, .init = begin, .fini = scene_end, .timeout = 60);

WORLD_TEST(relay, bulk_goes_by_pipes_both_ways)
{
    there.len = MANY;
    back.len = MANY / 2;
    world_until(all_arrived, "all has arrived");
    cr_expect(spliced() > MANY, "%lu", spliced());
    ends();
    cr_expect(world_metric("istio_tcp_received_bytes_total") == MANY);
    cr_expect(world_metric("istio_tcp_sent_bytes_total") == MANY / 2);
}

WORLD_TEST(relay, little_is_copied)
{
    for (int i = 0; i < 100; i++) {
        there.len += SMALL;
        world_until(all_arrived, "the question");
        back.len += 4 * SMALL;
        world_until(all_arrived, "the answer");
    }
    cr_expect(spliced() == 0 && open_pipes() == 0);
    ends();
}

WORLD_TEST(relay, what_becomes_little_is_copied_again)
{
    unsigned long before;

    send_there(MANY);
    world_until(all_arrived, "all has arrived");
    for (int i = 0; i < 10; i++) {
        send_there(SMALL);
        world_until(all_arrived, "the next bytes");
    }
    before = spliced();
    cr_expect(before > 0);
    send_there(SMALL);
    world_until(all_arrived, "the next bytes");
    cr_expect(spliced() == before);
    ends();
}

WORLD_TEST(relay, bulk_is_copied_where_pipes_are_switched_off)
{
    pipes()->limit = 0;
    there.len = back.len = MANY;
    world_until(all_arrived, "all has arrived");
    cr_expect(spliced() == 0 && open_pipes() == 0 && atomic_load(&pipes()->copied) == 0);
    ends();
}

WORLD_TEST(relay, bulk_is_copied_while_there_is_no_descriptor_for_a_pipe)
{
    struct rlimit before, none;
    int next = dup(0); /* whatever is opened next has a larger number, or this one */

    close(next);
    cr_assert(getrlimit(RLIMIT_NOFILE, &before) == 0);
    none = before;
    none.rlim_cur = (rlim_t)next;
    cr_assert(setrlimit(RLIMIT_NOFILE, &none) == 0);
    there.len = back.len = MANY;
    world_until(all_arrived, "all has arrived");
    cr_expect(spliced() == 0 && open_pipes() == 0 && atomic_load(&pipes()->copied) > 0);
    cr_expect(atomic_load(&pipes()->last_error) == EMFILE);
    cr_assert(setrlimit(RLIMIT_NOFILE, &before) == 0);
    pipes()->rest_until = 0;
    there.len += MANY;
    world_until(all_arrived, "all has arrived");
    cr_expect(spliced() > 0, "once there are some again");
    ends();
}

WORLD_TEST(relay, bulk_is_copied_under_memory_pressure)
{
    struct budget_account others = {.share = &world.wp->memory};
    unsigned long before;

    send_there(MANY);
    world_until(all_arrived, "all has arrived");
    before = spliced();
    cr_assert(before > 0);
    world.proxy.memory.limit = 4 << 20;
    cr_assert(budget_take(&others, 2 << 20) == 0);
    world_run(20);
    cr_assert(world.wp->level > BUDGET_CALM);
    send_there(MANY);
    world_until(all_arrived, "all has arrived");
    cr_expect(spliced() == before);
    budget_give_all(&others);
    ends();
}

WORLD_TEST(relay, keeps_a_pipe_for_who_does_not_read)
{
    fill();
    cr_expect(held() == PIPES_BYTES, "%zu bytes are held", held());
    cr_expect(descriptors() == 4, "two sockets and two ends of the pipe, not %d", descriptors());
    cr_expect(open_pipes() == pipes()->idle_len + 1);
    there.paused = false;
    world_until(all_arrived, "all has arrived");
    cr_expect(held() == 0 && descriptors() == 2 && open_pipes() == pipes()->idle_len);
    ends();
}

WORLD_TEST(relay, keeps_bytes_in_memory_where_the_pod_has_no_descriptors_left)
{
    world.proxy.settings.max_pod_descriptors = 3;
    fill();
    cr_expect(held() > 0 && held() < PIPES_BYTES, "%zu bytes are held", held());
    cr_expect(descriptors() == 2 && open_pipes() == pipes()->idle_len);
    there.paused = false;
    world_until(all_arrived, "all has arrived");
    cr_expect(held() == 0);
    ends();
}

WORLD_TEST(relay, an_end_waits_for_what_is_in_the_pipe)
{
    fill();
    cr_assert(shutdown(client, SHUT_WR) == 0);
    back.len = MANY;
    world_until(back_arrived, "the other way goes on");
    cr_expect(!there.ended);
    there.paused = false;
    world_until(ended_there, "the end");
    cr_expect(there.got == there.len && there.error == 0);
    world_until(all_arrived, "all has arrived");
    ends();
}

WORLD_TEST(relay, a_senders_reset_waits_for_what_is_in_the_pipe)
{
    fill();
    hang_up(&client, true);
    world_run(100);
    there.paused = false;
    world_until(ended_there, "the end");
    cr_expect(there.error == ECONNRESET, "%s", strerror(there.error));
    /* What was still in the sender's own socket is lost, as it is with nobody between. */
    cr_expect(there.got > PIPES_BYTES && there.got <= there.len);
    hang_up(&server, false);
    world_until(none_left, "the relay ends");
    cr_expect(held() == 0 && open_pipes() == pipes()->idle_len);
    cr_expect(world_metric("istio_tcp_received_bytes_total") == (double)there.got);
}

WORLD_TEST(relay, what_was_in_the_pipe_is_delivered_when_it_is_cut)
{
    struct connection *c;

    fill();
    c = list_first(&world.wp->connections, struct connection, node);
    c->abort(c, BRUMA_REASON_POLICY_CHANGED, NULL);
    cr_expect(none_left() && open_pipes() == pipes()->idle_len);
    cr_expect(held() > 0 && held() < PIPES_BYTES, "%zu bytes are held", held());
    there.paused = false;
    world_until(ended_there, "the end");
    cr_expect(there.error == ECONNRESET);
    cr_expect(world_metric("istio_tcp_received_bytes_total") == (double)there.got);
    cr_expect(world_metric("bruma_failures_total{reason=\"last_bytes_undelivered\"}") == 0);
    hang_up(&client, false);
    hang_up(&server, false);
    world_run(50);
}

/* A pipe with bytes of one connection in it must never come to another. */
WORLD_TEST(relay, a_readers_reset_throws_away_what_is_in_the_pipe)
{
    fill();
    hang_up(&server, true);
    world_until(ended_back, "the client sees the reset");
    cr_expect(back.error == ECONNRESET || there.refused == ECONNRESET); /* it is told once */
    hang_up(&client, true);
    world_until(none_left, "the relay ends");
    cr_expect(held() == 0 && open_pipes() == pipes()->idle_len);
    close(listener);
    go_out(WORLD_FAR, 0);
    world_until(served, "the other side has a connection");
    there = (struct stream){.from = &client, .to = &server, .len = MANY};
    back = (struct stream){.from = &server, .to = &client, .len = MANY};
    world_until(all_arrived, "all of the next one has arrived");
    ends();
}

WORLD_TEST(relay, there_is_a_bound_on_pipes)
{
    struct pipe pipe, none;

    pipes()->limit = 1;
    cr_assert(pipes_take(pipes(), 0, &pipe));
    cr_expect(!pipes_take(pipes(), 0, &none) && open_pipes() == 1);
    send_there(MANY);
    world_until(all_arrived, "all has arrived");
    cr_expect(spliced() == 0 && atomic_load(&pipes()->copied) > 1);
    pipes_give(pipes(), &pipe);
    send_there(MANY);
    world_until(all_arrived, "all has arrived");
    cr_expect(spliced() > 0 && open_pipes() == 1);
    ends();
}
