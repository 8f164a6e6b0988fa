/* SPDX-License-Identifier: Apache-2.0 */
/* How often a channel asks its server for a sign of life: some end a connection that asks more often than
 * they allow. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "lib/rpc/grpc_client.h"

#define PREFACE  24
#define HEADER   9
#define INTERVAL 200 /* milliseconds */
#define RUN      1300

enum { SETTINGS = 4, PING = 6, ACK = 1 };

static struct {
    struct loop *loop;
    int listener, fd;
    struct loop_watch watch;
    unsigned char buf[4096];
    size_t len, skip;
    unsigned pings;
    bool answers, down;
} s;

static void on_down(void *data, const char *why)
{
    (void)data;
    cr_expect_str_eq(why, "the server did not answer a PING");
    s.down = true;
}

static void on_message(void *data, const uint8_t *message, size_t len)
{
    (void)data;
    (void)message;
    (void)len;
}

static void on_end(void *data, enum grpc_status status, const char *text)
{
    (void)data;
    (void)text;
    cr_expect(status == GRPC_UNAVAILABLE);
}

static void take_frame(const unsigned char *frame, size_t len)
{
    if (frame[3] != PING || (frame[4] & ACK))
        return;
    s.pings++;
    if (s.answers) {
        unsigned char ack[HEADER + 8];

        memcpy(ack, frame, len);
        ack[4] = ACK;
        cr_assert(write(s.fd, ack, sizeof(ack)) == (ssize_t)sizeof(ack));
    }
}

static void on_readable(struct loop_watch *watch, uint32_t events)
{
    ssize_t n = read(watch->fd, s.buf + s.len, sizeof(s.buf) - s.len);

    (void)events;
    if (n <= 0) {
        loop_watch_remove(s.loop, watch);
        return;
    }
    s.len += (size_t)n;
    for (;;) {
        size_t len = s.skip ? s.skip : HEADER;

        if (s.len < len)
            return;
        if (!s.skip) {
            len += (size_t)s.buf[0] << 16 | (size_t)s.buf[1] << 8 | s.buf[2];
            if (s.len < len)
                return;
            take_frame(s.buf, len);
        }
        s.skip = 0;
        s.len -= len;
        memmove(s.buf, s.buf + len, s.len);
    }
}

static void on_time(struct loop_timer *timer)
{
    (void)timer;
    loop_stop(s.loop);
}

/* A call that nothing comes on, for a while. */
static void run(bool answers)
{
    static const unsigned char settings[HEADER] = {0, 0, 0, SETTINGS};
    static const struct grpc_call_events events = {.message = on_message, .end = on_end};
    struct sockaddr_un at = {.sun_family = AF_UNIX};
    struct grpc_channel_config config = {.unix_path = at.sun_path, .ping_milliseconds = INTERVAL};
    struct grpc_channel *channel;
    struct grpc_call *call;
    struct loop_timer time;

    s.answers = answers;
    s.skip = PREFACE;
    snprintf(at.sun_path, sizeof(at.sun_path), "/tmp/bruma-grpc-ping-%d", getpid());
    s.listener = socket(AF_UNIX, SOCK_STREAM, 0);
    cr_assert(bind(s.listener, (struct sockaddr *)&at, sizeof(at)) == 0 && listen(s.listener, 1) == 0);
    cr_assert(loop_new(&s.loop) == 0);
    cr_assert(grpc_channel_open(s.loop, &config, on_down, NULL, &channel) == 0);
    channel->ping_timeout = INTERVAL / 4;
    unlink(at.sun_path);
    s.fd = accept(s.listener, NULL, NULL);
    cr_assert(s.fd >= 0 && write(s.fd, settings, sizeof(settings)) == (ssize_t)sizeof(settings));
    cr_assert(loop_watch_add(s.loop, &s.watch, s.fd, EPOLLIN, on_readable) == 0);
    cr_assert(grpc_call_open(channel, "/a/b", NULL, 0, 0, &events, NULL, &call) == 0);
    cr_assert(grpc_call_send(call, NULL, 0, true) == 0);
    loop_timer_init(&time, on_time);
    loop_timer_set(s.loop, &time, RUN);
    cr_assert(loop_run(s.loop) == 0);
    grpc_channel_close(&channel);
    loop_free(&s.loop);
    close(s.fd);
    close(s.listener);
}

TestSuite(grpc_ping, .timeout = 60);

Test(grpc_ping, no_more_often_than_it_is_told)
{
    run(true);
    cr_expect(!s.down && s.pings >= 2 && s.pings <= RUN / INTERVAL, "%u", s.pings);
}

Test(grpc_ping, a_server_that_is_silent_is_given_up)
{
    run(false);
    cr_expect(s.down && s.pings == 1, "%u", s.pings);
}
