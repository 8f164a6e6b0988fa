/* SPDX-License-Identifier: Apache-2.0 */
#include "lib/loop.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <time.h>
#include <unistd.h>

#include "lib/cleanup.h"
#include "lib/slice.h"

#define EVENTS_PER_TURN       256
#define EVENTS_PER_SHORT_TURN 16
#define WHEEL_SLOTS           1024 /* a power of two; one round is about 16 s, later timers wait for their round */
#define SETTLE_WAIT           16 /* milliseconds between tries to give epoll what it did not take */
#define TICK_SHIFT            4  /* a tick is 16 ms */

struct posted {
    struct posted *next;
    loop_post_fn fn;
    void *data;
};

struct free_later {
    struct free_later *next;
};

struct loop {
    int epoll_fd;
    bool stopped; /* atomic */
    bool again;   /* the next turn begins without sleep */
    uint64_t now;

    struct epoll_event events[EVENTS_PER_TURN];
    int events_len;
    unsigned short_turns; /* how many want them */

    struct list wheel[WHEEL_SLOTS];
    uint64_t wheel_tick; /* every slot up to here was run */
    uint64_t next_due;   /* no timer is due before; UINT64_MAX if none is armed */

    struct loop_watch wake;
    pthread_mutex_t post_lock; /* guards posted and posted_last */
    struct posted *posted, **posted_last;
    struct posted *running; /* those that were taken from there for this turn, and are still to run */

    struct loop_watch signals;
    loop_signal_fn signal_fn;
    void *signal_data;

    loop_turn_fn turn_end, sleep_before, sleep_after;
    void *turn_end_data, *sleep_data;

    struct list unsettled; /* watches whose events the kernel did not take */

    struct free_later *garbage;
};

static uint64_t clock_milliseconds(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

static struct loop *loop_of_wake(struct loop_watch *watch)
{
    return container_of(watch, struct loop, wake);
}

static void run_posted(struct loop_watch *watch, uint32_t events)
{
    struct loop *loop = loop_of_wake(watch);
    uint64_t count;

    (void)events;
    while (read(watch->fd, &count, sizeof(count)) > 0)
        ;
    pthread_mutex_lock(&loop->post_lock);
    loop->running = loop->posted;
    loop->posted = NULL;
    loop->posted_last = &loop->posted;
    pthread_mutex_unlock(&loop->post_lock);
    while (loop->running) {
        struct posted *p = loop->running;

        loop->running = p->next;
        p->fn(p->data);
        free(p);
    }
}

int loop_new(struct loop **ret)
{
    struct loop *loop = calloc(1, sizeof(*loop));
    int r, fd;

    if (!loop)
        return -ENOMEM;
    for (size_t i = 0; i < WHEEL_SLOTS; i++)
        list_init(&loop->wheel[i]);
    list_init(&loop->unsettled);
    loop->now = clock_milliseconds();
    loop->wheel_tick = loop->now >> TICK_SHIFT;
    loop->next_due = UINT64_MAX;
    loop->posted_last = &loop->posted;
    loop->wake.fd = loop->signals.fd = -1;
    pthread_mutex_init(&loop->post_lock, NULL);
    loop->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (loop->epoll_fd < 0) {
        r = -errno;
        loop_free(&loop);
        return r;
    }
    fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (fd < 0) {
        r = -errno;
        loop_free(&loop);
        return r;
    }
    r = loop_watch_add(loop, &loop->wake, fd, EPOLLIN, run_posted);
    if (r < 0) {
        close(fd);
        loop_free(&loop);
        return r;
    }
    *ret = loop;
    return 0;
}

static void free_garbage(struct loop *loop)
{
    while (loop->garbage) {
        struct free_later *g = loop->garbage;

        loop->garbage = g->next;
        free(g);
    }
}

void loop_free(struct loop **ptr)
{
    struct loop *loop = *ptr;

    if (!loop)
        return;
    free_garbage(loop);
    while (loop->posted) {
        struct posted *p = loop->posted;

        loop->posted = p->next;
        free(p);
    }
    if (loop->wake.fd >= 0)
        close(loop->wake.fd);
    if (loop->signals.fd >= 0)
        close(loop->signals.fd);
    if (loop->epoll_fd >= 0)
        close(loop->epoll_fd);
    pthread_mutex_destroy(&loop->post_lock);
    free(loop);
    *ptr = NULL;
}

uint64_t loop_now(const struct loop *loop)
{
    return loop->now;
}

int loop_watch_add(struct loop *loop, struct loop_watch *watch, int fd, uint32_t events, loop_watch_fn fn)
{
    struct epoll_event ev = {.events = events, .data.ptr = watch};

    if (epoll_ctl(loop->epoll_fd, EPOLL_CTL_ADD, fd, &ev) < 0)
        return -errno;
    watch->fd = fd;
    watch->events = events;
    watch->fn = fn;
    list_init(&watch->unsettled);
    return 0;
}

int loop_watch_modify(struct loop *loop, struct loop_watch *watch, uint32_t events)
{
    struct epoll_event ev = {.events = events, .data.ptr = watch};
    bool unsettled = !list_empty(&watch->unsettled);

    if (watch->fd < 0 || !watch->fn)
        return -EBADF;
    if (watch->events == events && !unsettled)
        return 0;
    if (epoll_ctl(loop->epoll_fd, EPOLL_CTL_MOD, watch->fd, &ev) < 0) {
        int r = -errno;

        watch->wanted = events;
        if (!unsettled && r != -EBADF && r != -ENOENT)
            list_add_tail(&loop->unsettled, &watch->unsettled);
        return r;
    }
    list_del(&watch->unsettled);
    watch->events = events;
    return 0;
}

/* A watch that is deaf by a failure of the moment must not stay so. */
static void settle(struct loop *loop)
{
    struct list again;

    list_init(&again);
    list_splice(&again, &loop->unsettled);
    while (!list_empty(&again)) {
        struct loop_watch *watch = list_first(&again, struct loop_watch, unsettled);

        list_del(&watch->unsettled);
        /* back to the loop's list if it fails */
        (void)loop_watch_modify(loop, watch, watch->wanted);
    }
}

void loop_watch_remove(struct loop *loop, struct loop_watch *watch)
{
    if (watch->fd < 0 || !watch->fn)
        return;
    epoll_ctl(loop->epoll_fd, EPOLL_CTL_DEL, watch->fd, NULL);
    list_del(&watch->unsettled);
    for (int i = 0; i < loop->events_len; i++) {
        if (loop->events[i].data.ptr == watch)
            loop->events[i].data.ptr = NULL;
    }
    watch->fd = -1;
    watch->fn = NULL;
}

void loop_timer_init(struct loop_timer *timer, loop_timer_fn fn)
{
    list_init(&timer->node);
    timer->fn = fn;
}

bool loop_timer_armed(const struct loop_timer *timer)
{
    return !list_empty(&timer->node);
}

/* Rounded up, so that no timer fires early. */
static uint64_t tick_of(uint64_t due)
{
    return (due + (1u << TICK_SHIFT) - 1) >> TICK_SHIFT;
}

void loop_timer_cancel(struct loop_timer *timer)
{
    list_del(&timer->node);
}

void loop_timer_set(struct loop *loop, struct loop_timer *timer, uint64_t after_milliseconds)
{
    list_del(&timer->node);
    timer->due = loop->now + after_milliseconds;
    if (tick_of(timer->due) <= loop->wheel_tick)
        timer->due = (loop->wheel_tick + 1) << TICK_SHIFT;
    list_add_tail(&loop->wheel[tick_of(timer->due) % WHEEL_SLOTS], &timer->node);
    if (timer->due < loop->next_due)
        loop->next_due = timer->due;
}

/* Earliest due time of all armed timers. Looks at each slot of the wheel, so it runs only after timers fired.
 */
static uint64_t find_next_due(const struct loop *loop)
{
    uint64_t best = UINT64_MAX;

    for (uint64_t i = 1; i <= WHEEL_SLOTS; i++) {
        const struct list *slot = &loop->wheel[(loop->wheel_tick + i) % WHEEL_SLOTS];

        for (const struct list *n = slot->next; n != slot; n = n->next) {
            const struct loop_timer *t = container_of(n, struct loop_timer, node);

            if (t->due < best)
                best = t->due;
        }
        /* A timer of this round cannot be later than this slot: later slots hold later timers only. */
        if (best <= (loop->wheel_tick + i) << TICK_SHIFT)
            break;
    }
    return best;
}

static void run_timers(struct loop *loop)
{
    uint64_t tick = loop->now >> TICK_SHIFT, slots;

    if (loop->now < loop->next_due)
        return;
    slots = tick - loop->wheel_tick;
    if (slots > WHEEL_SLOTS)
        slots = WHEEL_SLOTS;
    /* What is armed from here on belongs to slots that are still to come: this turn's are not looked at again
     * for a whole round. */
    loop->wheel_tick = tick;
    for (uint64_t i = 1; i <= slots; i++) {
        struct list *slot = &loop->wheel[(tick - slots + i) % WHEEL_SLOTS], due;

        /* Callbacks may arm and cancel anything, so the slot is taken aside first. */
        list_init(&due);
        list_splice(&due, slot);
        while (!list_empty(&due)) {
            struct loop_timer *t = list_first(&due, struct loop_timer, node);

            list_del(&t->node);
            if (t->due > loop->now) {
                list_add_tail(slot, &t->node);
                continue;
            }
            t->fn(t);
        }
    }
    loop->next_due = find_next_due(loop);
}

int loop_post(struct loop *loop, loop_post_fn fn, void *data)
{
    struct posted *p = malloc(sizeof(*p));
    uint64_t one = 1;
    bool was_empty;

    if (!p)
        return -ENOMEM;
    p->next = NULL;
    p->fn = fn;
    p->data = data;
    pthread_mutex_lock(&loop->post_lock);
    was_empty = !loop->posted;
    *loop->posted_last = p;
    loop->posted_last = &p->next;
    pthread_mutex_unlock(&loop->post_lock);
    /* The counter of an eventfd cannot fill up by single steps, so this write does not fail. */
    if (was_empty && write(loop->wake.fd, &one, sizeof(one)) < 0)
        return -errno;
    return 0;
}

static bool take_back(struct posted **at, loop_post_fn fn, void *data)
{
    struct posted *p;

    while (*at && ((*at)->fn != fn || (*at)->data != data))
        at = &(*at)->next;
    p = *at;
    if (!p)
        return false;
    *at = p->next;
    free(p);
    return true;
}

bool loop_unpost(struct loop *loop, loop_post_fn fn, void *data)
{
    bool found = take_back(&loop->running, fn, data);

    pthread_mutex_lock(&loop->post_lock);
    if (!found)
        found = take_back(&loop->posted, fn, data);
    loop->posted_last = &loop->posted;
    while (*loop->posted_last)
        loop->posted_last = &(*loop->posted_last)->next;
    pthread_mutex_unlock(&loop->post_lock);
    return found;
}

void loop_stop(struct loop *loop)
{
    uint64_t one = 1;

    __atomic_store_n(&loop->stopped, true, __ATOMIC_RELEASE);
    if (write(loop->wake.fd, &one, sizeof(one)) < 0)
        return; /* full: the loop is awake anyway */
}

void loop_set_turn_end(struct loop *loop, loop_turn_fn fn, void *data)
{
    loop->turn_end = fn;
    loop->turn_end_data = data;
}

void loop_set_sleep_hooks(struct loop *loop, loop_turn_fn before, loop_turn_fn after, void *data)
{
    loop->sleep_before = before;
    loop->sleep_after = after;
    loop->sleep_data = data;
}

void loop_free_later(struct loop *loop, void *memory)
{
    struct free_later *g = memory;

    g->next = loop->garbage;
    loop->garbage = g;
}

void loop_again(struct loop *loop)
{
    loop->again = true;
}

static int wait_milliseconds(const struct loop *loop)
{
    uint64_t now;

    if (loop->again)
        return 0;
    if (!list_empty(&loop->unsettled))
        return SETTLE_WAIT;
    if (loop->next_due == UINT64_MAX)
        return -1;
    now = clock_milliseconds();
    /* Timers fire on ticks: sleep to the end of the tick that holds the next one. */
    if ((tick_of(loop->next_due) << TICK_SHIFT) <= now)
        return 0;
    now = (tick_of(loop->next_due) << TICK_SHIFT) - now;
    return now > 60000 ? 60000 : (int)now;
}

void loop_short_turns(struct loop *loop, bool are_short)
{
    loop->short_turns += are_short ? 1 : -1u;
    if (loop->short_turns == are_short)
        slice_short(are_short);
}

int loop_run(struct loop *loop)
{
    while (!__atomic_load_n(&loop->stopped, __ATOMIC_ACQUIRE)) {
        int timeout = wait_milliseconds(loop), n;

        if (loop->sleep_before && timeout)
            loop->sleep_before(loop->sleep_data);
        n = epoll_wait(loop->epoll_fd, loop->events,
                       loop->short_turns ? EVENTS_PER_SHORT_TURN : EVENTS_PER_TURN, timeout);
        if (loop->sleep_after && timeout)
            loop->sleep_after(loop->sleep_data);
        if (n < 0 && errno != EINTR)
            return -errno;
        loop->again = false;
        loop->now = clock_milliseconds();
        loop->events_len = n < 0 ? 0 : n;
        for (int i = 0; i < loop->events_len; i++) {
            struct loop_watch *watch = loop->events[i].data.ptr;

            if (watch)
                watch->fn(watch, loop->events[i].events);
        }
        loop->events_len = 0;
        run_timers(loop);
        if (!list_empty(&loop->unsettled))
            settle(loop);
        if (loop->turn_end)
            loop->turn_end(loop->turn_end_data);
        free_garbage(loop);
    }
    __atomic_store_n(&loop->stopped, false, __ATOMIC_RELEASE);
    return 0;
}

static void read_signals(struct loop_watch *watch, uint32_t events)
{
    struct loop *loop = container_of(watch, struct loop, signals);
    struct signalfd_siginfo info;

    (void)events;
    while (read(watch->fd, &info, sizeof(info)) == sizeof(info))
        loop->signal_fn(loop->signal_data, (int)info.ssi_signo);
}

int loop_signals(struct loop *loop, const int *signals, int count, loop_signal_fn fn, void *data)
{
    sigset_t set;
    int fd, r;

    sigemptyset(&set);
    for (int i = 0; i < count; i++)
        sigaddset(&set, signals[i]);
    r = pthread_sigmask(SIG_BLOCK, &set, NULL);
    if (r)
        return -r;
    fd = signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC);
    if (fd < 0)
        return -errno;
    loop->signal_fn = fn;
    loop->signal_data = data;
    r = loop_watch_add(loop, &loop->signals, fd, EPOLLIN, read_signals);
    if (r < 0)
        close(fd);
    return r;
}
