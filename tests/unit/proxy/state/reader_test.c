/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A loop is a reader, as each worker's is (proxy/state/reader.h): what a turn has found stays until its end,
 * and a loop that sleeps holds no grace period up. Under ThreadSanitizer also that it would say so if a
 * reader kept a pointer for its next turn, which nothing else that runs here can see.
 */
#include <criterion/criterion.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <unistd.h>

#include "proxy/state/rcu.h"
#include "proxy/state/reader.h"
#include "proxy/state/reclaim.h"

#define ROUNDS 300
#define TICK   1 /* milliseconds */

struct thing {
    int first, second; /* the same, until it is put away */
};

static struct thing *published;
static struct loop *loop;
static struct reader reader;
static struct loop_timer tick;
static struct reclaim reclaim;
static pthread_t thread;
static atomic_uint turns, turn_ends, reads;

static struct thing *thing(int number)
{
    struct thing *t = malloc(sizeof(*t));

    cr_assert(t != NULL);
    *t = (struct thing){number, number};
    return t;
}

static void put_away(void *object)
{
    struct thing *t = object;

    t->first = -1;
    t->second = -2;
    free(t);
}

static void look(const struct thing *t)
{
    cr_assert(t->first == t->second, "%d, %d", t->first, t->second);
    atomic_fetch_add_explicit(&reads, 1, memory_order_relaxed);
}

static void count_turn_end(void *data)
{
    cr_assert(data == &turn_ends);
    look(rcu_read(published)); /* the turn is not over yet */
    atomic_fetch_add_explicit(&turn_ends, 1, memory_order_relaxed);
}

/* As a callback of a worker: it follows the pointer, and follows what it has found to the end of its turn. */
static void read_in_turn(struct loop_timer *timer)
{
    const struct thing *t = rcu_read(published);

    for (int i = 0; i < 50; i++)
        look(t);
    atomic_fetch_add_explicit(&turns, 1, memory_order_relaxed);
    loop_timer_set(loop, timer, TICK);
}

static void *run(void *data)
{
    reader_register();
    cr_assert(loop_run(loop) == 0);
    reader_unregister();
    return data;
}

static void start(loop_timer_fn fn)
{
    reader_register();
    reader_offline(); /* the writer, as the control thread */
    published = thing(0);
    cr_assert(loop_new(&loop) == 0);
    reader_loop(&reader, loop, count_turn_end, &turn_ends);
    loop_timer_init(&tick, fn);
    loop_timer_set(loop, &tick, TICK);
    cr_assert(pthread_create(&thread, NULL, run, NULL) == 0);
}

static void replace(int number)
{
    struct thing *old = published;

    rcu_publish(published, thing(number));
    reclaim_add(&reclaim, put_away, old);
    reclaim_flush(&reclaim);
}

static void end(void)
{
    loop_stop(loop);
    cr_assert(pthread_join(thread, NULL) == 0);
    loop_free(&loop);
    put_away(published);
    reader_unregister();
}

static void nothing(void *data)
{
    (void)data;
}

Test(reader, what_a_turn_has_found_stays_until_its_end, .timeout = 60)
{
    start(read_in_turn);
    for (int round = 1; round < ROUNDS; round++) {
        replace(round);
        if (round % 16 == 0)
            reclaim_wait();
        cr_assert(loop_post(loop, nothing, NULL) == 0); /* a turn */
        usleep(500);
    }
    reclaim_wait();
    end();
    cr_expect(turns > 3, "%u turns that read", turns);
    cr_expect(turn_ends >= turns, "%u ends of %u turns", turn_ends, turns);
}

static void sleep_on(struct loop_timer *timer)
{
    (void)timer;
}

Test(reader, a_loop_that_sleeps_holds_nothing_up, .timeout = 60)
{
    start(sleep_on);
    while (!atomic_load(&turn_ends))
        usleep(1000);
    usleep(50 * 1000); /* it sleeps by now, until somebody stops it */
    for (int round = 1; round < 20; round++) {
        replace(round);
        reclaim_wait();
    }
    end();
}

#ifdef RCU_UNDER_TSAN
static const struct thing *kept;

/* What no callback may do: it goes on with what an earlier turn has found. */
static void read_kept(struct loop_timer *timer)
{
    if (!kept)
        kept = rcu_read(published);
    look(kept);
    loop_timer_set(loop, timer, TICK);
}

/* 66 is what a program ends with that ThreadSanitizer has found a fault in. */
Test(reader, one_that_keeps_a_pointer_is_reported, .timeout = 60, .exit_code = 66)
{
    start(read_kept);
    for (int i = 0; i < 100 && atomic_load_explicit(&reads, memory_order_relaxed) < 3; i++)
        usleep(20 * 1000);
    replace(1);
    sleep(2);
    end();
}
#endif
