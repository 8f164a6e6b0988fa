/* SPDX-License-Identifier: Apache-2.0 */
#include <criterion/criterion.h>
#include <pthread.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "lib/loop.h"

struct fixture {
    struct loop *loop;
    struct loop_timer timer, other;
    struct loop_watch a, b;
    int fired, pipe_a[2], pipe_b[2];
    uint64_t due;
};

static uint64_t milliseconds(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

static void stop_on_timer(struct loop_timer *t)
{
    struct fixture *f = container_of(t, struct fixture, timer);

    cr_expect(milliseconds() >= f->due, "a timer never fires early");
    f->fired++;
    loop_stop(f->loop);
}

static void count_other(struct loop_timer *t)
{
    container_of(t, struct fixture, other)->fired += 100;
}

Test(loop, timers_fire_in_time_and_not_once_cancelled)
{
    static const unsigned delays[] = {0, 1, 15, 16, 17, 40, 300};

    for (size_t i = 0; i < sizeof(delays) / sizeof(delays[0]); i++) {
        struct fixture f = {};

        cr_assert(loop_new(&f.loop) == 0);
        loop_timer_init(&f.timer, stop_on_timer);
        loop_timer_init(&f.other, count_other);
        f.due = loop_now(f.loop) + delays[i];
        loop_timer_set(f.loop, &f.other, delays[i]);
        loop_timer_set(f.loop, &f.timer, delays[i]);
        loop_timer_cancel(&f.other);
        cr_assert(loop_run(f.loop) == 0);
        cr_expect(f.fired == 1);
        cr_expect(!loop_timer_armed(&f.timer));
        loop_free(&f.loop);
    }
}

/* Later than one round of the wheel, beside an early one in the same slot. */
Test(loop, a_timer_of_a_later_round_waits)
{
    struct fixture f = {};

    cr_assert(loop_new(&f.loop) == 0);
    loop_timer_init(&f.timer, stop_on_timer);
    loop_timer_init(&f.other, count_other);
    f.due = loop_now(f.loop) + 48;
    loop_timer_set(f.loop, &f.other, 1024 * 16 + 48);
    loop_timer_set(f.loop, &f.timer, 48);
    cr_assert(loop_run(f.loop) == 0);
    cr_expect(f.fired == 1, "only the early one");
    loop_free(&f.loop);
}

static void again_on_timer(struct loop_timer *t)
{
    struct fixture *f = container_of(t, struct fixture, timer);

    if (++f->fired == 100)
        loop_stop(f->loop);
    else
        loop_timer_set(f->loop, t, 0);
}

static void stop_on_other(struct loop_timer *t)
{
    struct fixture *f = container_of(t, struct fixture, other);

    f->due = 0;
    loop_stop(f->loop);
}

/* Each one in the middle of a turn of the wheel: none may have to wait for its next round, which is 16 s. */
Test(loop, a_timer_armed_by_a_timer_is_not_passed_over)
{
    struct fixture f = {.due = 1};

    cr_assert(loop_new(&f.loop) == 0);
    loop_timer_init(&f.timer, again_on_timer);
    loop_timer_init(&f.other, stop_on_other);
    loop_timer_set(f.loop, &f.timer, 0);
    loop_timer_set(f.loop, &f.other, 12000);
    cr_assert(loop_run(f.loop) == 0);
    cr_expect(f.due, "100 ticks take less than 12 s");
    loop_free(&f.loop);
}

static void remove_the_other(struct loop_watch *w, uint32_t events)
{
    struct fixture *f = container_of(w, struct fixture, a);

    (void)events;
    f->fired++;
    loop_watch_remove(f->loop, &f->b);
    loop_watch_remove(f->loop, &f->a);
    loop_stop(f->loop);
}

static void remove_the_first(struct loop_watch *w, uint32_t events)
{
    struct fixture *f = container_of(w, struct fixture, b);

    (void)events;
    f->fired++;
    loop_watch_remove(f->loop, &f->a);
    loop_watch_remove(f->loop, &f->b);
    loop_stop(f->loop);
}

Test(loop, a_watch_removed_in_the_same_turn_gets_no_event)
{
    struct fixture f = {};

    cr_assert(loop_new(&f.loop) == 0);
    cr_assert(pipe(f.pipe_a) == 0 && pipe(f.pipe_b) == 0);
    cr_assert(loop_watch_add(f.loop, &f.a, f.pipe_a[0], EPOLLIN, remove_the_other) == 0);
    cr_assert(loop_watch_add(f.loop, &f.b, f.pipe_b[0], EPOLLIN, remove_the_first) == 0);
    cr_assert(write(f.pipe_a[1], "x", 1) == 1 && write(f.pipe_b[1], "x", 1) == 1);
    cr_assert(loop_run(f.loop) == 0);
    cr_expect(f.fired == 1);
    loop_free(&f.loop);
}

#define READY 100 /* pipes */

struct busy {
    struct loop_watch watches[READY];
    struct loop *loop;
    int events, turns;
};

static struct busy busy;

static void count_event(struct loop_watch *watch, uint32_t events)
{
    (void)events;
    busy.events++;
    loop_watch_remove(busy.loop, watch);
}

static void count_turn(void *data)
{
    (void)data;
    busy.turns++;
    if (busy.events == READY)
        loop_stop(busy.loop);
}

/* So many are ready at once. How many turns they take. */
static int turns(unsigned short_turns)
{
    int pipes[READY][2];

    busy = (struct busy){};
    cr_assert(loop_new(&busy.loop) == 0);
    loop_set_turn_end(busy.loop, count_turn, NULL);
    for (int i = 0; i < READY; i++) {
        cr_assert(pipe(pipes[i]) == 0 && write(pipes[i][1], "x", 1) == 1);
        cr_assert(loop_watch_add(busy.loop, &busy.watches[i], pipes[i][0], EPOLLIN, count_event) == 0);
    }
    for (unsigned i = 0; i < 2; i++)
        loop_short_turns(busy.loop, true);
    for (unsigned i = short_turns; i < 2; i++)
        loop_short_turns(busy.loop, false);
    cr_assert(loop_run(busy.loop) == 0);
    for (int i = 0; i < READY; i++) {
        close(pipes[i][0]);
        close(pipes[i][1]);
    }
    loop_free(&busy.loop);
    return busy.turns;
}

Test(loop, turns_are_short_as_long_as_somebody_wants_it)
{
    cr_expect(turns(0) == 1);
    cr_expect(turns(1) > 5);
    cr_expect(turns(2) > 5);
}

#define POSTS 20000

static int next_expected;

static void in_order(void *data)
{
    cr_assert((int)(intptr_t)data == next_expected);
    next_expected++;
}

static void *poster(void *data)
{
    struct loop *loop = data;

    for (intptr_t i = 0; i < POSTS; i++)
        cr_assert(loop_post(loop, in_order, (void *)i) == 0);
    loop_post(loop, (loop_post_fn)(void (*)(void))loop_stop, loop);
    return NULL;
}

static struct loop *unposting;

static void unpost_others(void *data)
{
    in_order(data);
    cr_expect(loop_unpost(unposting, in_order, (void *)2), "of this turn");
    cr_expect(!loop_unpost(unposting, in_order, (void *)2));
    cr_assert(loop_post(unposting, in_order, (void *)2) == 0);
    cr_assert(loop_post(unposting, in_order, (void *)5) == 0);
    cr_expect(loop_unpost(unposting, in_order, (void *)5), "the last of the next");
    cr_assert(loop_post(unposting, (loop_post_fn)(void (*)(void))loop_stop, unposting) == 0);
}

Test(loop, what_was_taken_back_does_not_run)
{
    cr_assert(loop_new(&unposting) == 0);
    cr_assert(loop_post(unposting, unpost_others, (void *)0) == 0);
    cr_assert(loop_post(unposting, in_order, (void *)2) == 0);
    cr_assert(loop_post(unposting, in_order, (void *)1) == 0);
    cr_expect(!loop_unpost(unposting, in_order, (void *)0));
    cr_expect(!loop_unpost(unposting, unpost_others, (void *)1));
    cr_expect(loop_unpost(unposting, in_order, (void *)1));
    cr_assert(loop_post(unposting, in_order, (void *)1) == 0);
    cr_expect(loop_unpost(unposting, in_order, (void *)1));
    cr_assert(loop_post(unposting, in_order, (void *)1) == 0);
    next_expected = 0;
    cr_assert(loop_run(unposting) == 0);
    cr_expect(next_expected == 3);
    loop_free(&unposting);
}

Test(loop, posts_from_another_thread_run_in_order)
{
    struct loop *loop;
    pthread_t t;

    cr_assert(loop_new(&loop) == 0);
    cr_assert(pthread_create(&t, NULL, poster, loop) == 0);
    cr_assert(loop_run(loop) == 0);
    pthread_join(t, NULL);
    cr_expect(next_expected == POSTS);
    loop_free(&loop);
}
