/* SPDX-License-Identifier: Apache-2.0 */
/* What is left to a program that has given up privileges, in a child of the test each time. */
#include <criterion/criterion.h>
#include <errno.h>
#include <linux/bpf.h>
#include <linux/capability.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "lib/cleanup.h"
#include "lib/netns.h"
#include "lib/privileges.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED true
#else
#define SANITIZED false
#endif

/* Runs it in a child; its result is what the child's function returns, or -1 if it was killed. */
static int in_child(int (*fn)(enum privileges_role role), enum privileges_role role)
{
    pid_t pid = fork();
    int status = -1;

    if (!pid)
        _exit(fn(role));
    cr_assert(waitpid(pid, &status, 0) == pid);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static void *nothing(void *data)
{
    return data;
}

#define EXPECT_REFUSED(call)                        \
    do {                                            \
        errno = 0;                                  \
        if ((long)(call) != -1 || errno != EPERM)   \
            return __LINE__ > 255 ? 255 : __LINE__; \
    } while (0)

static int refuses(enum privileges_role role)
{
    char *const argv[] = {(char *)"/bin/true", NULL};
    union bpf_attr attr = {};
    int own;

    own = netns_open_own();
    if (own < 0 || privileges_filter(role) < 0)
        return 1;
    EXPECT_REFUSED(execve("/bin/true", argv, environ));
    EXPECT_REFUSED(mount("none", "/tmp", "tmpfs", 0, NULL));
    EXPECT_REFUSED(umount2("/nowhere", MNT_DETACH));
    EXPECT_REFUSED(unshare(CLONE_NEWNET));
    EXPECT_REFUSED(setns(own, CLONE_NEWNS));
    EXPECT_REFUSED(setns(own, 0));
    EXPECT_REFUSED(ptrace(PTRACE_TRACEME, 0, NULL, NULL));
    EXPECT_REFUSED(syscall(SYS_clone, CLONE_NEWUSER | SIGCHLD, 0, 0, 0, 0));
    EXPECT_REFUSED(syscall(SYS_init_module, NULL, 0, ""));
    EXPECT_REFUSED(syscall(SYS_io_uring_setup, 1, NULL));
    EXPECT_REFUSED(setuid(65534));
    EXPECT_REFUSED(chroot("/tmp"));
    if (role == PRIVILEGES_PROXY) {
        EXPECT_REFUSED(syscall(SYS_bpf, BPF_PROG_LOAD, &attr, sizeof(attr)));
        EXPECT_REFUSED(syscall(SYS_bpf, BPF_OBJ_GET, &attr, sizeof(attr)));
        EXPECT_REFUSED(syscall(SYS_bpf, BPF_MAP_CREATE, &attr, sizeof(attr)));
    }
    return 0;
}

static const int of_maps[] = {BPF_MAP_UPDATE_ELEM, BPF_MAP_DELETE_ELEM, BPF_MAP_LOOKUP_ELEM,
                              BPF_MAP_GET_NEXT_KEY, BPF_MAP_LOOKUP_BATCH};

static int allows(enum privileges_role role)
{
    union bpf_attr attr = {};
    pthread_t thread;
    int own = netns_open_own(), status;
    pid_t pid;

    if (own < 0 || privileges_filter(role) < 0)
        return 1;
    if (pthread_create(&thread, NULL, nothing, NULL) || pthread_join(thread, NULL))
        return 2;
    pid = fork();
    if (pid < 0)
        return 3;
    if (!pid)
        _exit(0);
    if (waitpid(pid, &status, 0) != pid)
        return 4;
    if (netns_enter(own) < 0)
        return 5;
    /* Not refused for being bpf(2): there is no such map. */
    for (size_t i = 0; i < array_size(of_maps); i++) {
        attr = (union bpf_attr){.map_fd = 9999};
        if (of_maps[i] == BPF_MAP_LOOKUP_BATCH)
            attr = (union bpf_attr){.batch = {.map_fd = 9999}};
        if (syscall(SYS_bpf, of_maps[i], &attr, sizeof(attr)) != -1 || errno != EBADF)
            return 6 + (int)i;
    }
    return 0;
}

Test(privileges, calls_that_are_never_made_are_refused)
{
    if (geteuid() != 0 || SANITIZED)
        cr_skip("needs root, and a program that does not look into itself");
    cr_expect_eq(in_child(refuses, PRIVILEGES_PROXY), 0, "line %d", in_child(refuses, PRIVILEGES_PROXY));
    cr_expect_eq(in_child(refuses, PRIVILEGES_AGENT), 0, "line %d", in_child(refuses, PRIVILEGES_AGENT));
}

Test(privileges, what_they_do_goes_on)
{
    if (geteuid() != 0 || SANITIZED)
        cr_skip("needs root, and a program that does not look into itself");
    cr_expect_eq(in_child(allows, PRIVILEGES_PROXY), 0);
    cr_expect_eq(in_child(allows, PRIVILEGES_AGENT), 0);
}

static void *is_filtered(void *data)
{
    int *ready = data;

    while (!__atomic_load_n(ready, __ATOMIC_ACQUIRE))
        usleep(1000);
    return unshare(CLONE_NEWNET) < 0 && errno == EPERM ? NULL : data;
}

/* The agent has threads already when it filters. */
static int reaches_threads(enum privileges_role role)
{
    pthread_t thread;
    void *result;
    int ready = 0;

    if (pthread_create(&thread, NULL, is_filtered, &ready) || privileges_filter(role) < 0)
        return 1;
    __atomic_store_n(&ready, 1, __ATOMIC_RELEASE);
    return pthread_join(thread, &result) || result ? 2 : 0;
}

Test(privileges, the_filter_is_for_all_threads)
{
    if (geteuid() != 0 || SANITIZED)
        cr_skip("needs root, and a program that does not look into itself");
    cr_expect_eq(in_child(reaches_threads, PRIVILEGES_AGENT), 0);
}

static int keeps(enum privileges_role role)
{
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct data[2];

    (void)role;
    if (privileges_keep(PRIVILEGE(CAP_NET_ADMIN) | PRIVILEGE(CAP_BPF)) < 0)
        return 1;
    if (syscall(SYS_capget, &header, data) < 0 || data[0].effective != PRIVILEGE(CAP_NET_ADMIN) ||
        data[0].permitted != data[0].effective || data[0].inheritable)
        return 2;
    if (data[1].effective != PRIVILEGE(CAP_BPF) >> 32)
        return 3;
    if (prctl(PR_CAPBSET_READ, CAP_SYS_ADMIN, 0, 0, 0) != 0 ||
        prctl(PR_CAPBSET_READ, CAP_NET_ADMIN, 0, 0, 0) != 1)
        return 4;
    return prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1 ? 0 : 5;
}

Test(privileges, only_what_is_named_is_kept)
{
    if (geteuid() != 0)
        cr_skip("needs root, who has something to give up");
    cr_expect_eq(in_child(keeps, PRIVILEGES_PROXY), 0);
}

static int hides(enum privileges_role role)
{
    struct rlimit limit;

    (void)role;
    if (privileges_hide_memory() < 0)
        return 1;
    return getrlimit(RLIMIT_CORE, &limit) < 0 || limit.rlim_max || prctl(PR_GET_DUMPABLE, 0, 0, 0, 0) ? 2 : 0;
}

Test(privileges, memory_is_hidden)
{
    if (SANITIZED)
        cr_skip("a sanitizer looks into its own process");
    cr_expect_eq(in_child(hides, PRIVILEGES_PROXY), 0);
}
