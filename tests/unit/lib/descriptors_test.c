/* SPDX-License-Identifier: Apache-2.0 */
/* Room for descriptors, as the kernel says it is there. */
#include <criterion/criterion.h>
#include <dirent.h>
#include <limits.h>
#include <sys/resource.h>
#include <unistd.h>

#include "lib/descriptors.h"

static unsigned open_now(void)
{
    DIR *d = opendir("/proc/self/fd");
    unsigned n = 0;

    cr_assert(d);
    while (readdir(d))
        n++;
    closedir(d);
    return n;
}

static void limit_to(rlim_t now, rlim_t hard)
{
    struct rlimit limit = {now, hard};

    cr_assert_eq(setrlimit(RLIMIT_NOFILE, &limit), 0);
}

Test(descriptors, have_room_before_they_are_needed)
{
    unsigned before, descriptors = open_now();

    limit_to(4096, 4096);
    before = descriptors_slots();
    cr_assert(before && before < 2048, "%u", before);
    descriptors_make_room(2048);
    cr_expect_geq(descriptors_slots(), 2048);
    cr_expect_eq(open_now(), descriptors);
    before = descriptors_slots();
    for (int fd = 1000; fd < 2048; fd += 100)
        cr_expect_eq(dup2(STDERR_FILENO, fd), fd);
    cr_expect_eq(descriptors_slots(), before);
    descriptors_make_room(0);
    descriptors_make_room(64);
    cr_expect_eq(descriptors_slots(), before);
}

Test(descriptors, have_no_more_room_than_the_limit)
{
    limit_to(1024, 1024);
    descriptors_make_room(UINT_MAX);
    cr_expect_eq(descriptors_slots(), 1024);
}

Test(descriptors, may_be_as_many_as_the_hard_limit_says)
{
    struct rlimit limit;

    limit_to(512, 700);
    descriptors_raise_limit();
    cr_assert_eq(getrlimit(RLIMIT_NOFILE, &limit), 0);
    cr_expect_eq(limit.rlim_cur, 700);
    descriptors_make_room(690);
    cr_expect_geq(descriptors_slots(), 690);
}
