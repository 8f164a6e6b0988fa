/* SPDX-License-Identifier: Apache-2.0 */
/* Where the cgroups of a node's pods are, and which namespaces their processes are in. */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "agent/enroll/guard.h"
#include "lib/netns.h"
#include "tests/unit/agent/proc_files.h"

static void make_directories(const char *root, const char *below)
{
    char command[300];

    snprintf(command, sizeof(command), "mkdir -p %s/%s", root, below);
    cr_assert_eq(system(command), 0);
}

Test(guard, the_cgroup_of_pods_is_found)
{
    static const struct {
        const char *made, *found;
    } cases[] = {
        {"system.slice/a.service", NULL},
        {"kubepods/besteffort/podx", "kubepods"},
        {"kubepods.slice/kubepods-besteffort.slice", "kubepods.slice"},
        {"kubelet.slice/kubelet-kubepods.slice/x", "kubelet.slice/kubelet-kubepods.slice"},
        {"a/b/kubepods", "a/b/kubepods"},
        {"a/b/c/kubepods", NULL}, /* too deep: that is something of a pod's */
        {"my-kubepods", NULL},
        {"-kubepods.slice", NULL},
    };

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        char root[] = "/tmp/bruma-cgroup-XXXXXX", found[200] = "", command[100];
        int r;

        cr_assert(mkdtemp(root) != NULL);
        make_directories(root, cases[i].made);
        r = guard_find_cgroup(root, found, sizeof(found));
        cr_expect_eq(r, cases[i].found ? 0 : -ENOENT, "%s: %d", cases[i].made, r);
        if (cases[i].found)
            cr_expect_str_eq(found + strlen(root) + 1, cases[i].found);
        cr_expect_neq(guard_find_cgroup(root, found, 8), 0, "no room");
        snprintf(command, sizeof(command), "rm -r %s", root);
        cr_assert_eq(system(command), 0);
    }
    cr_expect_eq(guard_find_cgroup("/nowhere/at/all", (char[50]){}, 50), -ENOENT);
}

Test(guard, a_cgroup_that_is_the_pods_own_is_taken_as_it_is)
{
    char found[100];

    cr_expect_eq(guard_find_cgroup("/sys/fs/cgroup/kubepods.slice", found, sizeof(found)), 0);
    cr_expect_str_eq(found, "/sys/fs/cgroup/kubepods.slice");
}

Test(guard, namespaces_of_pods_are_those_of_their_processes)
{
    static const char *const unseen[] = {"0", "999999999", "../../etc"};
    char root[] = "/tmp/bruma-cgroup-XXXXXX", text[100], command[100];
    uint64_t *cookies = NULL, own;
    int fd = netns_open_own();

    cr_assert_geq(fd, 0);
    cr_assert_eq(netns_cookie(fd, &own), 0);
    close(fd);
    cr_assert(mkdtemp(root) != NULL);
    cr_expect_eq(guard_namespaces("/nowhere/at/all", "/proc", &cookies), 0);
    free(cookies);
    /* Twice the same namespace. */
    snprintf(text, sizeof(text), "%d\n", getpid());
    write_proc(root, "pod1", "cgroup.procs", text);
    write_proc(root, "pod2", "cgroup.procs", text);
    make_directories(root, "pod3/without-processes");
    snprintf(command, sizeof(command), "ln -s / %s/pod4", root);
    cr_assert_eq(system(command), 0);
    cr_assert_eq(guard_namespaces(root, "/proc", &cookies), 1);
    cr_expect_eq(cookies[0], own);
    free(cookies);
    /* One that cannot be seen from here, one that is listed and cannot be looked at, and garbage. */
    for (size_t i = 0; i < array_size(unseen); i++) {
        cookies = NULL;
        snprintf(text, sizeof(text), "%d\n%s\n", getpid(), unseen[i]);
        write_proc(root, "pod2", "cgroup.procs", text);
        cr_expect_lt(guard_namespaces(root, "/proc", &cookies), 0, "%s", unseen[i]);
        cr_expect_null(cookies);
    }
    snprintf(command, sizeof(command), "rm -r %s", root);
    cr_assert_eq(system(command), 0);
}
