/* SPDX-License-Identifier: Apache-2.0 */
#include "lib/directory_watch.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#define LIMIT_MS 20000 /* only to end a test that fails */

struct told {
    unsigned changes, rests;
    bool removes; /* itself, when it is told */
    struct directory_watch watch;
};

static struct loop *loop;
static struct directory_watcher watcher;
static struct loop_timer limit;
static char root[64];

static void on_limit(struct loop_timer *timer)
{
    (void)timer;
    loop_stop(loop);
}

static void begin(void)
{
    strcpy(root, "/tmp/bruma-directory-XXXXXX");
    cr_assert(mkdtemp(root) != NULL);
    cr_assert(loop_new(&loop) == 0);
    cr_assert(directory_watcher_open(loop, &watcher) == 0);
    loop_timer_init(&limit, on_limit);
}

static void end(void)
{
    char command[128];

    directory_watcher_close(&watcher);
    loop_timer_cancel(&limit);
    loop_free(&loop);
    snprintf(command, sizeof(command), "rm -r %s", root);
    cr_assert(system(command) == 0);
}

TestSuite(directory_watch, .init = begin, .fini = end, .timeout = 60);

static const char *in_root(const char *name)
{
    static char path[2][128];
    static int turn;

    turn = !turn;
    snprintf(path[turn], sizeof(path[turn]), "%s/%s", root, name);
    return path[turn];
}

static void write_file(const char *name, const char *text)
{
    FILE *f = fopen(in_root(name), "w");

    cr_assert(f && fputs(text, f) >= 0 && fclose(f) == 0);
}

static void on_changed(void *data, bool rested)
{
    struct told *told = data;

    *(rested ? &told->rests : &told->changes) += 1;
    if (told->removes)
        directory_watch_remove(&told->watch);
    loop_stop(loop);
}

static void watch(struct told *told, const char *name)
{
    cr_assert(directory_watch_add(&watcher, &told->watch, in_root(name), on_changed, told) == 0);
}

static void wait_for(const unsigned *count, unsigned wanted)
{
    loop_timer_set(loop, &limit, LIMIT_MS);
    while (*count < wanted && loop_timer_armed(&limit))
        loop_run(loop);
    cr_expect(*count == wanted, "%u, not %u", *count, wanted);
}

Test(directory_watch, tells_of_a_change_and_again_once_it_rests)
{
    struct told told = {};

    write_file("a", "1");
    watch(&told, ".");
    write_file("a", "12");
    wait_for(&told.changes, 1);
    wait_for(&told.rests, 1);
    cr_expect(told.changes == 1);
    write_file("b.new", "1");
    cr_assert(rename(in_root("b.new"), in_root("a")) == 0);
    wait_for(&told.changes, 2);
    cr_assert(unlink(in_root("a")) == 0);
    wait_for(&told.changes, 3);
    directory_watch_remove(&told.watch);
    directory_watch_remove(&told.watch);
}

/* As a Secret is mounted: files lead through a link that is replaced. */
Test(directory_watch, follows_links_that_are_swapped)
{
    struct told told = {};

    cr_assert(mkdir(in_root("v1"), 0700) == 0 && mkdir(in_root("v2"), 0700) == 0);
    cr_assert(mkdir(in_root("mount"), 0700) == 0);
    write_file("v1/a", "1");
    write_file("v2/a", "1");
    cr_assert(symlink("../v1", in_root("mount/..data")) == 0);
    cr_assert(symlink("..data/a", in_root("mount/a")) == 0);
    watch(&told, "mount");
    cr_assert(symlink("../v2", in_root("mount/..new")) == 0);
    cr_assert(rename(in_root("mount/..new"), in_root("mount/..data")) == 0);
    wait_for(&told.changes, 1);
    /* and what they lead to is written, of which the directory itself hears nothing */
    write_file("v2/a", "12");
    wait_for(&told.changes, 2);
    directory_watch_remove(&told.watch);
}

Test(directory_watch, waits_for_a_directory_that_is_not_there)
{
    struct told told = {};

    watch(&told, "later");
    cr_expect(told.watch.wd == -1);
    cr_assert(mkdir(in_root("later"), 0700) == 0);
    wait_for(&told.changes, 1);
    write_file("later/a", "1");
    wait_for(&told.changes, 2);
    cr_assert(rename(in_root("later"), in_root("gone")) == 0);
    wait_for(&told.changes, 3);
    directory_watch_remove(&told.watch);
}

Test(directory_watch, two_of_one_directory)
{
    struct told a = {}, b = {.removes = true};

    watch(&a, ".");
    watch(&b, ".");
    cr_expect(a.watch.wd == b.watch.wd);
    write_file("x", "1");
    wait_for(&b.changes, 1);
    wait_for(&a.changes, 1);
    write_file("x", "12");
    wait_for(&a.changes, 2);
    cr_expect(b.changes == 1, "it has removed itself");
    directory_watch_remove(&a.watch);
}

/* Of a directory in which something happens every so many milliseconds. */
struct restless {
    struct loop_timer timer;
    unsigned every, times;
};

static void on_restless(struct loop_timer *timer)
{
    struct restless *r = container_of(timer, struct restless, timer);
    char text[16];

    snprintf(text, sizeof(text), "%u", r->times);
    write_file("a", text);
    if (--r->times)
        loop_timer_set(loop, timer, r->every);
}

static void is_told_of(unsigned every, unsigned milliseconds)
{
    struct restless restless = {.every = every, .times = milliseconds / every};
    struct told told = {};
    uint64_t began = loop_now(loop);
    unsigned paces;

    loop_timer_init(&restless.timer, on_restless);
    watch(&told, ".");
    loop_timer_set(loop, &restless.timer, 0);
    while (restless.times)
        loop_run(loop);
    directory_watch_remove(&told.watch);
    paces = (unsigned)((loop_now(loop) - began) / DIRECTORY_PACE_MS); /* of as long as it took */
    cr_expect(told.changes + 2 >= paces && told.changes <= paces + 1, "%u times in %u s", told.changes,
              paces);
}

Test(directory_watch, what_never_rests_is_told_of_and_not_too_often)
{
    is_told_of(20, 3500);
    is_told_of(150, 3500);
}

/* The kernel has no instance for it; what changes is found by looking. */
Test(directory_watch, without_inotify)
{
    struct rlimit before, none;
    struct directory_watcher other;
    struct told told = {};

    cr_assert(getrlimit(RLIMIT_NOFILE, &before) == 0);
    none = (struct rlimit){.rlim_cur = 3, .rlim_max = before.rlim_max};
    cr_assert(setrlimit(RLIMIT_NOFILE, &none) == 0);
    cr_expect(directory_watcher_open(loop, &other) == 0);
    cr_assert(setrlimit(RLIMIT_NOFILE, &before) == 0);
    cr_assert(other.events.fd == -1 && other.without);
    cr_assert(directory_watch_add(&other, &told.watch, root, on_changed, &told) == 0);
    write_file("a", "1");
    wait_for(&told.changes, 1);
    wait_for(&told.rests, 1);
    directory_watch_remove(&told.watch);
    directory_watcher_close(&other);
    directory_watcher_close(&other);
}
