/* SPDX-License-Identifier: Apache-2.0 */
/* Bundles that cannot be read, for reasons that go without a change of any file. */
#include "proxy/identity/bundle_directory.h"

#include <criterion/criterion.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "tests/unit/certificates.h"

#define LIMIT 20000 /* milliseconds, only to end a test that fails */
#define FAR   "far.domain"

static struct loop *loop;
static struct bundle_directory directory;
static struct loop_timer limit;
static struct test_ca ca;
static unsigned changes;
static char root[64];

static void on_limit(struct loop_timer *timer)
{
    (void)timer;
    loop_stop(loop);
}

static void on_changed(void *data)
{
    (void)data;
    changes++;
    loop_stop(loop);
}

static void write_bundle(const char *text, size_t len)
{
    char path[128];
    FILE *f;

    snprintf(path, sizeof(path), "%s/" FAR ".pem", root);
    f = fopen(path, "w");
    cr_assert(f && fwrite(text, 1, len, f) == len && fclose(f) == 0);
}

static void begin(void)
{
    strcpy(root, "/tmp/bruma-bundles-XXXXXX");
    cr_assert(mkdtemp(root) != NULL);
    cr_assert(loop_new(&loop) == 0);
    loop_timer_init(&limit, on_limit);
    ca = test_ca();
    write_bundle(ca.pem, strlen(ca.pem));
}

static void end(void)
{
    char command[128];

    bundle_directory_clear(&directory);
    loop_timer_cancel(&limit);
    loop_free(&loop);
    test_ca_free(&ca);
    snprintf(command, sizeof(command), "rm -r %s", root);
    cr_assert(system(command) == 0);
}

TestSuite(bundle_directory, .init = begin, .fini = end, .timeout = 60);

static void follow(void)
{
    cr_assert(bundle_directory_follow(&directory, loop, root, on_changed, NULL) == 0);
}

static bool trusts_far(void)
{
    return bundles_find(directory.bundles, FAR, strlen(FAR)) != NULL;
}

/* So that so many descriptors can be opened. */
static void leave_descriptors(unsigned count)
{
    struct rlimit limits;
    int next = open("/", O_PATH | O_CLOEXEC);

    close(next);
    cr_assert(getrlimit(RLIMIT_NOFILE, &limits) == 0);
    limits.rlim_cur = (rlim_t)next + count;
    cr_assert(setrlimit(RLIMIT_NOFILE, &limits) == 0);
}

static void leave_all(void)
{
    struct rlimit limits;

    cr_assert(getrlimit(RLIMIT_NOFILE, &limits) == 0);
    limits.rlim_cur = limits.rlim_max;
    cr_assert(setrlimit(RLIMIT_NOFILE, &limits) == 0);
}

/* The directory can be opened and no file in it, for a moment. */
Test(bundle_directory, what_could_not_be_read_is_read_again)
{
    leave_descriptors(2); /* of inotify and the directory; no more is opened */
    follow();
    leave_all();
    cr_expect(!trusts_far() && directory.bad == 1);
    cr_expect_eq(directory.retry_milliseconds, 30000);
    directory.retry_milliseconds = 50;
    directory_watch_remove(&directory.watch); /* as if it never told of anything */
    loop_timer_set(loop, &directory.retry, 50);
    loop_timer_set(loop, &limit, LIMIT);
    loop_run(loop);
    cr_expect(changes == 1 && trusts_far() && directory.bad == 0);
    cr_expect(!loop_timer_armed(&directory.retry), "there is nothing to be read again");
}

Test(bundle_directory, a_file_that_is_bad_is_read_again_until_it_is_good)
{
    follow();
    cr_assert(trusts_far() && !loop_timer_armed(&directory.retry));
    bundle_directory_clear(&directory);
    write_bundle(ca.pem, 100);
    follow();
    cr_expect(!trusts_far() && loop_timer_armed(&directory.retry));
}

/* All that is behind it would be passed over. */
Test(bundle_directory, a_byte_0_is_no_text)
{
    char text[8192];
    size_t len = strlen(ca.pem);

    memcpy(text, ca.pem, len + 1);
    memcpy(text + len + 1, ca.pem, len);
    write_bundle(text, 2 * len + 1);
    follow();
    cr_expect(!trusts_far() && directory.bad == 1);
}
