/* SPDX-License-Identifier: Apache-2.0 */
#include "lib/proc.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

Test(proc, stat)
{
    uint64_t start;
    const char *stat = "7 (a) b) R (c)) S 1 7 7 0 -1 4194560 10 11 12 13 14 15 16 17 20 0 1 0 4711 999 5\n";

    cr_expect_eq(strncmp(proc_stat_field(stat, 3), "S 1", 3), 0);
    cr_expect_eq(strncmp(proc_stat_field(stat, 4), "1 7", 3), 0);
    cr_expect_eq(proc_stat_start(stat, &start), 0);
    cr_expect_eq(start, 4711);
    cr_expect_null(proc_stat_field("", 3));
    cr_expect_null(proc_stat_field("7 (a", 3));
    cr_expect_null(proc_stat_field("7 (a) S 1", 5));
    cr_expect_eq(proc_stat_start("7 (a) S 1", &start), -EBADMSG);
    cr_expect_eq(start, 4711);
}

Test(proc, start_of_a_process)
{
    uint64_t own = proc_start(getpid());

    cr_expect_gt(own, 0);
    cr_expect_eq(proc_start(getpid()), own);
    cr_expect_leq(proc_start(getppid()), own);
    cr_expect_eq(proc_start(0x7fffffff), 0);
}

static const char *path_of(const char *text)
{
    static char copy[256];

    snprintf(copy, sizeof(copy), "%s", text);
    return proc_cgroup2(copy);
}

Test(proc, cgroup)
{
    cr_expect_str_eq(path_of("0::/\n"), "/");
    cr_expect_str_eq(path_of("0::/system.slice/kubelet.service\n"), "/system.slice/kubelet.service");
    cr_expect_str_eq(path_of("12:memory:/a\n1:name=systemd:/b\n0::/c d\n"), "/c d");
    cr_expect_str_eq(path_of("0::/no/newline"), "/no/newline");
    cr_expect_null(path_of("12:memory:/a0::/b\n"));
    cr_expect_null(path_of(""));
}
