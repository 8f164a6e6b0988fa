/* SPDX-License-Identifier: Apache-2.0 */
/* A lane's last words: what decides whose a connection is must be heard. */
#include <criterion/criterion.h>
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "lib/seqpacket.h"
#include "proxy/handover/lane.h"

#define MESSAGES 200
#define BYTES    60000

static struct loop *loop;
static struct loop_timer pump;
static struct lane lane;
static int other = -1;
static unsigned heard, ends, silent;
static int failed;

static bool on_message(struct lane *l, const struct lane_message *m)
{
    return true;
}

static void on_ended(struct lane *l)
{
    ends++;
}

static const struct lane_events events = {on_message, on_ended};

/* The other end: reads a message at a time, up to the lane's end. */
static void on_pump(struct loop_timer *timer)
{
    static uint8_t buf[BRUMA_HANDOVER_MESSAGE_MAX + 1];
    ssize_t n = recv(other, buf, sizeof(buf), MSG_DONTWAIT);

    if (n > 0) {
        struct bruma_handover_head head;

        memcpy(&head, buf, sizeof(head));
        if (head.kind == BRUMA_HANDOVER_YOURS && head.unit == heard + 1)
            heard++;
    } else if (n == 0 || errno != EAGAIN || ++silent == 2000) {
        failed = n == 0 ? 0 : errno;
        close(other);
        other = -1;
        loop_stop(loop);
        return;
    }
    loop_timer_set(loop, timer, n > 0 ? 0 : 1);
}

static void setup(void)
{
    int pair[2];

    cr_assert(loop_new(&loop) == 0);
    cr_assert(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) == 0);
    cr_assert(lane_open(&lane, loop, pair[0], &events) == 0);
    other = pair[1];
    loop_timer_init(&pump, on_pump);
    loop_timer_set(loop, &pump, 1);
}

static void on_rest_time(struct loop_timer *timer)
{
    loop_stop(loop);
}

/* What is left of the lane sees that the other end has gone. */
static void teardown(void)
{
    struct loop_timer rest;

    loop_timer_init(&rest, on_rest_time);
    loop_timer_set(loop, &rest, 20);
    loop_run(loop);
    loop_free(&loop);
}

TestSuite(lane, .init = setup, .fini = teardown, .timeout = 30);

static void say(unsigned messages, size_t bytes)
{
    static const uint8_t zeroes[BYTES];

    for (unsigned i = 1; i <= messages; i++) {
        struct wire_writer payload = {};

        wire_put_bytes(&payload, 1, zeroes, bytes);
        cr_assert(lane_say(&lane, BRUMA_HANDOVER_YOURS, i, &payload, NULL, 0) >= 0, "message %u", i);
    }
}

static int closed_by_peer(void)
{
    struct pollfd p = {.fd = other, .events = POLLIN};

    return poll(&p, 1, 0) > 0 && (p.revents & POLLHUP);
}

/* More than the socket holds. */
Test(lane, what_waits_to_be_said_is_heard_after_its_end)
{
    say(MESSAGES, BYTES);
    cr_assert(!outbox_empty(&lane.outbox));
    lane_finish(&lane);
    cr_expect(!lane_is_open(&lane));
    cr_expect(!closed_by_peer());
    cr_assert(loop_run(loop) == 0);
    cr_expect_eq(heard, MESSAGES);
    cr_expect_eq(failed, 0, "%s", strerror(failed));
    cr_expect_eq(ends, 0);
}

Test(lane, what_was_said_is_heard_though_the_other_end_was_not)
{
    struct bruma_handover_head head = {.kind = BRUMA_HANDOVER_IMPORTED, .unit = 1};

    say(3, 10);
    for (int i = 0; i < 3; i++)
        cr_assert(seqpacket_send(other, &head, sizeof(head), NULL, 0) == 0);
    lane_finish(&lane);
    cr_assert(loop_run(loop) == 0);
    cr_expect_eq(heard, 3);
    cr_expect_eq(failed, 0, "%s", strerror(failed));
}
