/* SPDX-License-Identifier: Apache-2.0 */
#include "lib/wall.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#define LOOK_MILLISECONDS 5000
#define SET_MILLISECONDS  1000 /* what is less is drift, and adds up until it is more */

#define NEVER_SECONDS ((time_t)1 << 33) /* the year 2242, which the kernel's clocks still reach */

static int64_t milliseconds_of(clockid_t id)
{
    struct timespec ts;

    clock_gettime(id, &ts);
    return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

int64_t wall_milliseconds(void)
{
    return milliseconds_of(CLOCK_REALTIME);
}

/* As OpenSSL and the C library do it: by the same call, so that nobody is a second ahead of the others. */
int64_t wall_seconds(void)
{
    return (int64_t)time(NULL);
}

static int64_t ahead_now(void)
{
    return milliseconds_of(CLOCK_REALTIME) - milliseconds_of(CLOCK_MONOTONIC);
}

static void look(struct wall_clock *clock)
{
    int64_t ahead = ahead_now(), by = ahead - clock->ahead;

    loop_timer_set(clock->loop, &clock->look, LOOK_MILLISECONDS);
    if (llabs(by) < SET_MILLISECONDS)
        return;
    clock->ahead = ahead;
    clock->fn(clock->data, by);
}

static void on_look(struct loop_timer *timer)
{
    look(container_of(timer, struct wall_clock, look));
}

static int arm(int fd)
{
    const struct itimerspec never = {.it_value.tv_sec = NEVER_SECONDS};

    return timerfd_settime(fd, TFD_TIMER_ABSTIME | TFD_TIMER_CANCEL_ON_SET, &never, NULL) < 0 ? -errno : 0;
}

static void on_set(struct loop_watch *watch, uint32_t events)
{
    struct wall_clock *clock = container_of(watch, struct wall_clock, set);
    uint64_t expirations;

    (void)events;
    /* ECANCELED is the news. A clock beyond the date above would call again and again: then we only look. */
    if (read(watch->fd, &expirations, sizeof(expirations)) >= 0 || errno != ECANCELED || arm(watch->fd) < 0) {
        int fd = watch->fd;

        loop_watch_remove(clock->loop, watch);
        close(fd);
    }
    look(clock);
}

void wall_clock_follow(struct loop *loop, struct wall_clock *clock,
                       void (*fn)(void *data, int64_t milliseconds), void *data)
{
    int fd = timerfd_create(CLOCK_REALTIME, TFD_NONBLOCK | TFD_CLOEXEC);

    *clock = (struct wall_clock){.loop = loop, .set.fd = -1, .ahead = ahead_now(), .fn = fn, .data = data};
    loop_timer_init(&clock->look, on_look);
    loop_timer_set(loop, &clock->look, LOOK_MILLISECONDS);
    if (fd >= 0 && (arm(fd) < 0 || loop_watch_add(loop, &clock->set, fd, EPOLLIN, on_set) < 0)) {
        clock->set.fd = -1;
        close(fd);
    }
}

void wall_clock_forget(struct wall_clock *clock)
{
    int fd = clock->set.fd;

    if (!clock->loop)
        return;
    loop_timer_cancel(&clock->look);
    if (fd >= 0) {
        loop_watch_remove(clock->loop, &clock->set);
        close(fd);
    }
    clock->loop = NULL;
}
