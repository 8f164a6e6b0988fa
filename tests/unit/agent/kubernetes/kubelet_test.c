/* SPDX-License-Identifier: Apache-2.0 */
/* Which of the processes of a node is its kubelet, of whose probes pods are told. */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "agent/kubernetes/kubelet_find.h"
#include "lib/cleanup.h"
#include "tests/unit/agent/proc_files.h"

#define ROOTS "Uid:\t0\t0\t0\t0\n"

/* What else there is to a process below /proc: its user, its program of that name and mode, and when it
 * began. */
static void make_kubelet(const char *root, const char *pid, const char *program, const char *uid, mode_t mode,
                         unsigned began)
{
    char path[400], link[400], text[300], programs[100];

    snprintf(text, sizeof(text), "Name:\tx\nUmask:\t0022\n%s", uid);
    write_proc(root, pid, "status", text);
    snprintf(text, sizeof(text), "%s (a) b) S 1 1 1 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 %u 0 0\n", pid, began);
    write_proc(root, pid, "stat", text);
    snprintf(programs, sizeof(programs), "programs-of-%s", pid);
    write_proc(root, programs, program, "");
    snprintf(path, sizeof(path), "%s/%s/%s", root, programs, program);
    cr_assert_eq(chmod(path, mode), 0);
    snprintf(link, sizeof(link), "%s/%s/exe", root, pid);
    unlink(link);
    cr_assert_eq(symlink(path, link), 0);
}

Test(kubelet, the_kubelets_cgroup_is_found_by_its_name)
{
    char root[] = "/tmp/bruma-proc-XXXXXX", command[100];
    const struct kubelet_paths place = {.proc = root, .mount = "/cg"};
    struct kubelet_choice c;

    cr_assert(mkdtemp(root) != NULL);
    write_proc(root, "10", "comm", "kubelet-wrapper\n");
    write_proc(root, "10", "cgroup", "0::/wrong\n");
    write_proc(root, "self", "comm", "kubelet\n");
    cr_expect_eq(kubelet_find(&place, "", &c), -ENOENT);
    make_kubelet(root, "11", "kubelet", ROOTS, 0755, 1);
    write_proc(root, "11", "comm", "kubelet\n");
    cr_expect_eq(kubelet_find(&place, "", &c), -ENOENT, "it has just ended");
    write_proc(root, "11", "cgroup", "1:name=systemd:/x\n0::/system.slice/kubelet.service\n");
    cr_expect_eq(kubelet_find(&place, "", &c), 0);
    cr_expect_str_eq(c.cgroup, "/cg/system.slice/kubelet.service");
    cr_expect_eq(c.pid, 11);
    write_proc(root, "11", "cgroup", "0::/\n");
    cr_expect_eq(kubelet_find(&place, "", &c), -EXDEV, "everybody's");
    write_proc(root, "11", "cgroup", "0::/../../kubelet\n");
    cr_expect_eq(kubelet_find(&place, "", &c), -EXDEV, "beyond our namespace");
    snprintf(command, sizeof(command), "rm -r %s", root);
    cr_assert_eq(system(command), 0);
}

Test(kubelet, a_pod_that_calls_itself_kubelet_is_none)
{
    static const char *const groups[] = {
        "0::/kubepods/besteffort/pod11111111-2222-3333-4444-555555555555/c\n",
        "0::/kubepods.slice/kubepods-pod11111111_2222_3333_4444_555555555555.slice/cri-containerd-c.scope\n",
        /* hierarchies that disagree */
        "3:cpu:/kubepods/pod11111111-2222-3333-4444-555555555555/c\n0::/system.slice/kubelet.service\n"};
    char root[] = "/tmp/bruma-proc-XXXXXX", command[200];
    const struct kubelet_paths place = {.proc = root, .mount = "/cg"};
    struct kubelet_choice c;

    cr_assert(mkdtemp(root) != NULL);
    make_kubelet(root, "10", "kubelet", ROOTS, 0755, 1);
    write_proc(root, "10", "comm", "kubelet\n");
    for (size_t i = 0; i < sizeof(groups) / sizeof(groups[0]); i++) {
        write_proc(root, "10", "cgroup", groups[i]);
        cr_expect_eq(kubelet_find(&place, "", &c), -ENOENT, "%s", groups[i]);
    }
    /* In another network namespace, as a container of any runtime is. */
    write_proc(root, "10", "cgroup", "0::/docker/x\n");
    cr_expect_eq(kubelet_find(&place, "", &c), 0);
    snprintf(command, sizeof(command), "mkdir %s/10/ns && touch %s/10/ns/net", root, root);
    cr_assert_eq(system(command), 0);
    cr_expect_eq(kubelet_find(&place, "", &c), -ENOENT);
    /* The others that are a kubelet. */
    make_kubelet(root, "12", "k3s", ROOTS, 0755, 1);
    write_proc(root, "12", "comm", "k3s-server\n");
    write_proc(root, "12", "cgroup", "0::/system.slice/k3s.service\n");
    cr_expect_eq(kubelet_find(&place, "", &c), 0);
    cr_expect_str_eq(c.cgroup, "/cg/system.slice/k3s.service");
    write_proc(root, "12", "comm", "kubelite\n");
    cr_expect_eq(kubelet_find(&place, "", &c), 0);
    snprintf(command, sizeof(command), "rm -r %s", root);
    cr_assert_eq(system(command), 0);
}

static void expect_refused(const char *root, const char *uid, const char *program, mode_t mode,
                           const char *why)
{
    const struct kubelet_paths place = {.proc = root, .mount = "/cg"};
    struct kubelet_choice c;

    make_kubelet(root, "7", program, uid, mode, 1);
    cr_expect_eq(kubelet_find(&place, "", &c), -ENOENT, "%s", why);
    cr_expect(strstr(c.refused, "pid 7: ") && strstr(c.refused, why), "%s: %s", why, c.refused);
    /* Beside the real one, which began later. */
    make_kubelet(root, "20", "kubelet", ROOTS, 0755, 900);
    write_proc(root, "20", "comm", "kubelet\n");
    write_proc(root, "20", "cgroup", "0::/system.slice/kubelet.service\n");
    cr_expect_eq(kubelet_find(&place, "", &c), 0);
    cr_expect_eq(c.pid, 20, "%s", why);
    cr_expect_str_eq(c.why, "the only candidate");
    cr_expect(strstr(c.refused, why) != NULL);
    write_proc(root, "20", "comm", "gone\n");
}

Test(kubelet, who_calls_himself_kubelet_is_not_believed)
{
    char root[] = "/tmp/bruma-proc-XXXXXX", command[100];

    if (geteuid() != 0)
        cr_skip("needs root, whose files programs are");
    cr_assert(mkdtemp(root) != NULL);
    write_proc(root, "7", "comm", "kubelet\n");
    write_proc(root, "7", "cgroup", "0::/user.slice\n");
    expect_refused(root, "Uid:\t1000\t1000\t1000\t1000\n", "kubelet", 0755, "as root (uid 1000)");
    /* Of a program that is set-uid: sudo, by a link that is called kubelet. */
    expect_refused(root, "Uid:\t1000\t0\t0\t0\n", "kubelet", 0755, "as root (uid 1000)");
    expect_refused(root, ROOTS, "sudo", 0755, "its program has another name");
    expect_refused(root, ROOTS, "kubelet", 0775, "writable by others");
    expect_refused(root, ROOTS, "kubelet", 0757, "writable by others");
    expect_refused(root, "Gid:\t0\t0\t0\t0\n", "kubelet", 0755, "cannot be determined");
    snprintf(command, sizeof(command), "rm -r %s", root);
    cr_assert_eq(system(command), 0);
}

Test(kubelet, of_several_kubelets_the_known_one_is_taken)
{
    char root[] = "/tmp/bruma-proc-XXXXXX", command[100];
    const struct kubelet_paths place = {.proc = root, .mount = "/cg"};
    static const char *const pids[] = {"31", "32", "33"};
    struct kubelet_choice c;

    if (geteuid() != 0)
        cr_skip("needs root, whose files programs are");
    cr_assert(mkdtemp(root) != NULL);
    for (unsigned i = 0; i < array_size(pids); i++) {
        char group[40];

        snprintf(group, sizeof(group), "0::/group%u\n", i);
        make_kubelet(root, pids[i], "kubelet", ROOTS, 0755, (i + 1) % 3);
        write_proc(root, pids[i], "comm", "kubelet\n");
        write_proc(root, pids[i], "cgroup", group);
    }
    cr_expect_eq(kubelet_find(&place, "", &c), 0);
    cr_expect_eq(c.pid, 33, "the oldest");
    cr_expect_eq(c.candidates, 3);
    cr_expect_eq(kubelet_find(&place, "/cg/group1", &c), 0);
    cr_expect_eq(c.pid, 32, "where it was");
    cr_expect_str_eq(c.why, "in the same cgroup as before");
    snprintf(command, sizeof(command), "rm -r %s", root);
    cr_assert_eq(system(command), 0);
}

Test(kubelet, strangers_in_the_kubelets_cgroup_are_named)
{
    char root[] = "/tmp/bruma-proc-XXXXXX", group[100], below[120], names[100], command[100];
    const struct kubelet_paths place = {.proc = root, .mount = "/cg"};

    cr_assert(mkdtemp(root) != NULL);
    snprintf(group, sizeof(group), "%s/group", root);
    mkdir(group, 0700);
    cr_expect_eq(kubelet_other_processes(&place, 11, group, names, sizeof(names)), 0,
                 "it has gone meanwhile");
    write_proc(root, "11", "comm", "kubelet\n");
    write_proc(root, "11", "stat", "11 (kubelet) S 1 11 11 0\n");
    write_proc(root, "12", "comm", "mount\n");
    write_proc(root, "12", "stat", "12 (a) b) S 11 11 11 0\n");
    write_proc(root, "13", "comm", "containerd-shim\n");
    write_proc(root, "13", "stat", "13 (containerd-shim) S 1 11 11 0\n");
    write_proc(root, "group", "cgroup.procs", "11\n12\n13\n99\n");
    cr_expect_eq(kubelet_other_processes(&place, 11, group, names, sizeof(names)), 0, "%s", names);
    write_proc(root, "14", "comm", "sshd\n");
    write_proc(root, "14", "stat", "14 (sshd) S 1 14 14 0\n");
    write_proc(root, "15", "comm", "nc\n");
    write_proc(root, "15", "stat", "15 (nc) S 14 14 14 0\n");
    write_proc(root, "group", "cgroup.procs", "11\n14\n0\n");
    write_proc(group, "below", "cgroup.procs", "15\n");
    cr_expect_eq(kubelet_other_processes(&place, 11, group, names, sizeof(names)), 3);
    cr_expect_str_eq(names, "sshd, unknown, nc");
    snprintf(below, sizeof(below), "%s/none", group);
    cr_expect_eq(kubelet_other_processes(&place, 11, below, names, sizeof(names)), 0);
    snprintf(command, sizeof(command), "rm -r %s", root);
    cr_assert_eq(system(command), 0);
}
