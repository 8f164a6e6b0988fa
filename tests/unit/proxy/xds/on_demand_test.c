/* SPDX-License-Identifier: Apache-2.0 */
/* The table of keys that are asked for on demand: who waits, what is told, bounds, and many threads. */
#include "proxy/xds/on_demand.h"

#include <criterion/criterion.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "proxy/wire/wire.h"

static struct loop *loop;
static struct on_demand *keys;
static char told[4096];
static atomic_uint changes;

static void on_changed(void *data)
{
    (void)data;
    atomic_fetch_add(&changes, 1);
}

static void start(unsigned long max)
{
    const struct on_demand_config config = {
        .loop = NULL, .max = max, .absent = 200, .fresh = 400, .idle = 100, .changed = on_changed};
    struct on_demand_config c = config;

    cr_assert_eq(loop_new(&loop), 0);
    c.loop = loop;
    cr_assert_eq(on_demand_new(&c, &keys), 0);
}

static void stop(void)
{
    on_demand_free(&keys);
    loop_free(&loop);
}

static void left(void *data, const char *key)
{
    (void)data;
    snprintf(told + strlen(told), sizeof(told) - strlen(told), "-%s ", key);
}

static void ask(void *data, const char *key, bool known)
{
    (void)data;
    snprintf(told + strlen(told), sizeof(told) - strlen(told), "%s%s ", known ? "=" : "+", key);
}

/* What the control plane is told now: -left +asked =asked again. */
static const char *take(void)
{
    told[0] = '\0';
    on_demand_take(keys, left, ask, NULL);
    return told;
}

static bool tell_all(void *data, const char *key)
{
    ask(data, key, false);
    return true;
}

static bool tell_none(void *data, const char *key)
{
    (void)data;
    (void)key;
    return false;
}

static void begin(void)
{
    told[0] = '\0';
    on_demand_begin(keys, tell_all, NULL);
}

/* A response with one resource, its alias, and one removal; each may be NULL. */
static void answer(const char *name, const char *alias, const char *removed)
{
    struct wire_writer w = {}, resource = {};

    wire_put_string(&resource, 3, name);
    wire_put_string(&resource, 4, alias);
    if (name)
        wire_put_message(&w, 2, &resource);
    wire_put_string(&w, 6, removed);
    on_demand_take_response(keys, w.data, w.len);
    wire_writer_clear(&resource);
    wire_writer_clear(&w);
}

static enum on_demand_answer look(const char *key, bool here, uint64_t later)
{
    return on_demand_look(keys, key, here, loop_now(loop) + later);
}

Test(on_demand, a_key_is_asked_once_and_answered_by_name_alias_or_removal)
{
    start(10);
    begin();
    for (int i = 0; i < 3; i++) {
        cr_expect_eq(look("/10.0.0.1", false, 0), ON_DEMAND_ASKED);
        cr_expect_eq(look("demo/shop", false, 0), ON_DEMAND_ASKED);
        cr_expect_eq(look("/10.0.0.2", false, 0), ON_DEMAND_ASKED);
        cr_expect_eq(look("/10.0.0.3", false, 0), ON_DEMAND_ASKED);
    }
    cr_expect_str_eq(take(), "+/10.0.0.1 +demo/shop +/10.0.0.2 +/10.0.0.3 ");
    cr_expect_str_eq(take(), "");
    answer("uid", "/10.0.0.1", "/10.0.0.2");
    cr_expect_eq(look("/10.0.0.1", true, 0), ON_DEMAND_ANSWERED);
    cr_expect_eq(look("/10.0.0.2", false, 0), ON_DEMAND_ANSWERED);
    cr_expect_eq(look("demo/shop", false, 0), ON_DEMAND_ASKED);
    answer("demo/shop", "/10.0.0.3/32", NULL);
    cr_expect_eq(look("demo/shop", true, 0), ON_DEMAND_ANSWERED);
    cr_expect_eq(look("/10.0.0.3", true, 0), ON_DEMAND_ANSWERED);
    cr_expect_eq(changes, 2);
    answer("demo/shop", "/10.0.0.3", "nobody/asked");
    cr_expect_eq(changes, 2, "nothing was waited for");
    stop();
}

Test(on_demand, that_there_is_none_is_good_for_a_while_and_what_is_there_is_refreshed)
{
    start(10);
    begin();
    look("/10.0.0.1", false, 0);
    look("/10.0.0.2", false, 0);
    take();
    answer("uid", "/10.0.0.1", "/10.0.0.2");
    cr_expect_eq(look("/10.0.0.2", false, 150), ON_DEMAND_ANSWERED);
    cr_expect_eq(look("/10.0.0.2", true, 250), ON_DEMAND_ANSWERED, "it came meanwhile");
    cr_expect_eq(look("/10.0.0.2", false, 250), ON_DEMAND_ASKED);
    cr_expect_str_eq(take(), "=/10.0.0.2 ");
    cr_expect_eq(look("/10.0.0.1", true, 300), ON_DEMAND_ANSWERED);
    cr_expect_str_eq(take(), "");
    cr_expect_eq(look("/10.0.0.1", true, 450), ON_DEMAND_ANSWERED, "nobody waits for it");
    cr_expect_str_eq(take(), "=/10.0.0.1 ");
    cr_expect_eq(look("/10.0.0.1", true, 450), ON_DEMAND_ANSWERED);
    stop();
}

/* Or who dials it is refused for as long as somebody does. */
Test(on_demand, a_question_that_is_not_answered_is_asked_again)
{
    start(10);
    begin();
    cr_expect_eq(look("/10.0.0.1", false, 0), ON_DEMAND_ASKED);
    cr_expect_str_eq(take(), "+/10.0.0.1 ");
    cr_expect_eq(look("/10.0.0.1", false, 350), ON_DEMAND_ASKED);
    cr_expect_str_eq(take(), "", "its answer may come");
    cr_expect_eq(look("/10.0.0.1", false, 450), ON_DEMAND_ASKED);
    cr_expect_str_eq(take(), "=/10.0.0.1 ");
    cr_expect_eq(look("/10.0.0.1", false, 0), ON_DEMAND_ASKED);
    cr_expect_str_eq(take(), "", "once");
    answer("uid", "/10.0.0.1", NULL);
    cr_expect_eq(look("/10.0.0.1", true, 0), ON_DEMAND_ANSWERED);
    stop();
}

Test(on_demand, a_new_stream_is_told_of_every_key_and_asked_again_for_what_waits)
{
    start(10);
    cr_expect_eq(look("/10.0.0.1", false, 0), ON_DEMAND_AWAY);
    begin();
    cr_expect_str_eq(told, "+/10.0.0.1 ");
    cr_expect_eq(look("/10.0.0.1", false, 0), ON_DEMAND_ASKED);
    cr_expect_str_eq(take(), "", "the first request has it");
    on_demand_begun(keys);
    cr_expect_str_eq(take(), "=/10.0.0.1 ", "its answer had not");
    answer("uid", "/10.0.0.1", NULL);
    on_demand_ended(keys);
    cr_expect_eq(look("/10.0.0.1", false, 10000), ON_DEMAND_ANSWERED, "it is good while nobody can be asked");
    on_demand_begin(keys, tell_none, NULL);
    cr_expect_str_eq(take(), "+/10.0.0.1 ", "what did not fit is asked behind it");
    stop();
}

Test(on_demand, the_longest_unused_makes_room_unless_it_waits)
{
    start(2);
    begin();
    look("/10.0.0.1", false, 0);
    look("/10.0.0.2", false, 0);
    cr_expect_eq(look("/10.0.0.3", false, 0), ON_DEMAND_FULL);
    take();
    answer(NULL, NULL, "/10.0.0.2");
    cr_expect_eq(look("/10.0.0.3", false, 0), ON_DEMAND_ASKED);
    cr_expect_str_eq(take(), "-/10.0.0.2 +/10.0.0.3 ");
    cr_expect(on_demand_wants(keys, "/10.0.0.1") && !on_demand_wants(keys, "/10.0.0.2"));
    /* left and wanted again before the control plane has heard of it */
    answer(NULL, NULL, "/10.0.0.1");
    look("/10.0.0.2", false, 0);
    answer(NULL, NULL, "/10.0.0.3");
    look("/10.0.0.1", false, 0);
    cr_expect_str_eq(take(), "-/10.0.0.3 +/10.0.0.2 =/10.0.0.1 ");
    stop();
}

Test(on_demand, what_is_idle_is_left)
{
    start(10);
    begin();
    look("/10.0.0.1", false, 0);
    look("/10.0.0.2", false, 0);
    take();
    cr_expect(!on_demand_expire(keys));
    usleep(150000);
    loop_post(loop, (loop_post_fn)loop_stop, loop); /* its time goes on by its turns */
    loop_run(loop);
    look("/10.0.0.2", false, 0);
    cr_expect(on_demand_expire(keys));
    cr_expect_str_eq(take(), "-/10.0.0.1 ");
    cr_expect(on_demand_wants(keys, "/10.0.0.2"));
    stop();
}

static void *look_often(void *data)
{
    unsigned seed = (unsigned)(uintptr_t)data;

    for (int i = 0; i < 20000; i++) {
        char key[32];

        snprintf(key, sizeof(key), "/10.0.0.%d", rand_r(&seed) % 64);
        on_demand_look(keys, key, i & 1, (uint64_t)i);
    }
    return NULL;
}

Test(on_demand, threads)
{
    pthread_t threads[4];

    start(32);
    begin();
    for (uintptr_t i = 0; i < 4; i++)
        cr_assert_eq(pthread_create(&threads[i], NULL, look_often, (void *)(i + 1)), 0);
    for (int i = 0; i < 200; i++) {
        char name[32];

        take();
        snprintf(name, sizeof(name), "/10.0.0.%d", i % 64);
        answer("uid", name, name);
        on_demand_expire(keys);
        usleep(100);
    }
    for (int i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    stop();
}
