/* SPDX-License-Identifier: Apache-2.0 */
/* The wall clock of this program is the test's, and so is the timerfd by which the kernel tells that it was
 * set: nobody else's clock is touched. */
#include <criterion/criterion.h>
#include <errno.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#include "lib/wall.h"

static int64_t ahead; /* milliseconds that this program's clock is ahead of the machine's */
static int news = -1; /* stands for the kernel's timerfd */
static int armed;

int clock_gettime(clockid_t id, struct timespec *ts)
{
    int r = (int)syscall(SYS_clock_gettime, id, ts);

    if (r == 0 && id == CLOCK_REALTIME) {
        ts->tv_sec += ahead / 1000;
        ts->tv_nsec += ahead % 1000 * 1000000;
        if (ts->tv_nsec >= 1000000000)
            ts->tv_sec++, ts->tv_nsec -= 1000000000;
        if (ts->tv_nsec < 0)
            ts->tv_sec--, ts->tv_nsec += 1000000000;
    }
    return r;
}

int timerfd_create(int clock, int flags)
{
    cr_assert(clock == CLOCK_REALTIME);
    return news = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
}

int timerfd_settime(int fd, int flags, const struct itimerspec *next, struct itimerspec *old)
{
    cr_assert(fd == news && flags == (TFD_TIMER_ABSTIME | TFD_TIMER_CANCEL_ON_SET));
    cr_assert(next->it_value.tv_sec > 0x7fffffff, "it does not go off by itself");
    armed++;
    return 0;
}

/* As timerfd_create(2) has it for a timer that is cancelled because the clock was set. */
ssize_t read(int fd, void *buf, size_t size)
{
    ssize_t n = syscall(SYS_read, fd, buf, size);

    if (fd != news || n < 0)
        return n;
    errno = ECANCELED;
    return -1;
}

static struct loop *loop;
static struct wall_clock wall;
static int64_t told, calls;

static void on_set(void *data, int64_t milliseconds)
{
    cr_assert(data == &told);
    told = milliseconds;
    calls++;
    loop_stop(loop);
}

static void begin(void)
{
    cr_assert(loop_new(&loop) == 0);
    wall_clock_follow(loop, &wall, on_set, &told);
}

static void end(void)
{
    wall_clock_forget(&wall);
    wall_clock_forget(&wall);
    loop_free(&loop);
}

static bool about(int64_t milliseconds)
{
    return told > milliseconds - 500 && told < milliseconds + 500;
}

static void tell(void)
{
    uint64_t one = 1;

    cr_assert(write(news, &one, sizeof(one)) == sizeof(one));
}

static void stop(struct loop_timer *timer)
{
    loop_stop(loop);
}

static int64_t waited(void)
{
    struct timespec from, to;

    clock_gettime(CLOCK_MONOTONIC, &from);
    loop_run(loop);
    clock_gettime(CLOCK_MONOTONIC, &to);
    return (to.tv_sec - from.tv_sec) * 1000 + (to.tv_nsec - from.tv_nsec) / 1000000;
}

TestSuite(wall, .init = begin, .fini = end, .timeout = 60);

Test(wall, a_clock_that_is_set_is_told_at_once_again_and_again_both_ways)
{
    static const int64_t steps[] = {90000000, -90000000, 1500, -600000};
    int64_t before;

    cr_assert(armed == 1);
    for (size_t i = 0; i < sizeof(steps) / sizeof(steps[0]); i++) {
        before = ahead;
        ahead += steps[i];
        tell();
        cr_expect(waited() < 2000, "not by looking");
        cr_expect(about(steps[i]), "%lld", (long long)told);
        cr_expect(ahead - before == steps[i] && armed == (int)i + 2, "armed again");
    }
    cr_expect(calls == 4);
}

Test(wall, a_clock_that_is_set_behind_the_kernels_back_is_found)
{
    ahead -= 3600000;
    cr_expect(waited() < 6000);
    cr_expect(calls == 1 && about(-3600000), "%lld", (long long)told);
}

Test(wall, drift_is_no_news_until_it_is_a_second)
{
    struct loop_timer over;

    loop_timer_init(&over, stop);
    ahead += 400;
    tell();
    loop_timer_set(loop, &over, 300);
    loop_run(loop);
    cr_expect(calls == 0);
    ahead += 700;
    tell();
    loop_run(loop);
    cr_expect(calls == 1 && about(1100), "%lld", (long long)told);
    loop_timer_cancel(&over);
}
