/* SPDX-License-Identifier: Apache-2.0 */
#include "lib/privileges.h"

#include <errno.h>
#include <linux/audit.h>
#include <linux/bpf.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <stddef.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer) || __has_feature(memory_sanitizer)
#define SANITIZED 1
#endif
#endif
#ifndef SANITIZED
#define SANITIZED 0
#endif

int privileges_hide_memory(void)
{
    const struct rlimit none = {0, 0};

    if (SANITIZED)
        return 0;
    return setrlimit(RLIMIT_CORE, &none) < 0 || prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) < 0 ? -errno : 0;
}

int privileges_keep(uint64_t keep)
{
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct data[2] = {0};

    if (syscall(SYS_capget, &header, data) < 0)
        return -errno;
    /* The bounding set first: it takes CAP_SETPCAP, which goes next. Who has not got that has no set-uid
     * programs to gain by either, for the sake of the last step. */
    for (unsigned long c = 0; prctl(PR_CAPBSET_READ, c, 0, 0, 0) >= 0; c++) {
        if (!(keep & PRIVILEGE(c)) && prctl(PR_CAPBSET_DROP, c, 0, 0, 0) < 0 && errno != EPERM)
            return -errno;
    }
    if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) < 0)
        return -errno;
    for (int i = 0; i < 2; i++) {
        data[i].permitted &= (uint32_t)(keep >> (32 * i));
        data[i].effective = data[i].permitted;
        data[i].inheritable = 0;
    }
    if (syscall(SYS_capset, &header, data) < 0)
        return -errno;
    return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 ? -errno : 0;
}

/* ---- system calls ---- */

#if defined(__x86_64__)
#define ARCHITECTURE AUDIT_ARCH_X86_64
#elif defined(__aarch64__) && !defined(__AARCH64EB__)
#define ARCHITECTURE AUDIT_ARCH_AARCH64
#endif

#define FIELD(name)      ((uint32_t)offsetof(struct seccomp_data, name))
#define LOW(argument)    (FIELD(args) + 8 * (argument)) /* the lower half, on little-endian machines */
#define LOAD(at)         BPF_STMT(BPF_LD | BPF_W | BPF_ABS, at)
#define RETURN(action)   BPF_STMT(BPF_RET | BPF_K, action)
#define REFUSE(error)    RETURN(SECCOMP_RET_ERRNO | (error))
#define UNLESS(k, skip)  BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)(k), 0, skip)
#define UNLESS_ANY(k, s) BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, (uint32_t)(k), 0, s)
#define NEW_NAMESPACES                                                                         \
    (CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS | \
     CLONE_NEWCGROUP)

/* Never made, by neither program, once it is set up. */
static const int refused[] = {
    SYS_execve, SYS_execveat, SYS_ptrace, SYS_process_vm_readv, SYS_process_vm_writev, SYS_kcmp, SYS_unshare,
    /* file systems */
    SYS_mount, SYS_umount2, SYS_pivot_root, SYS_chroot, SYS_swapon, SYS_swapoff, SYS_open_by_handle_at,
    SYS_name_to_handle_at, SYS_quotactl, SYS_mknodat, SYS_fanotify_init,
#ifdef SYS_fsopen
    SYS_fsopen, SYS_fsconfig, SYS_fsmount, SYS_fspick, SYS_move_mount, SYS_open_tree,
#endif
#ifdef SYS_mount_setattr
    SYS_mount_setattr,
#endif
#ifdef SYS_mknod
    SYS_mknod,
#endif
    /* the kernel and the machine */
    SYS_init_module, SYS_finit_module, SYS_delete_module, SYS_kexec_load, SYS_reboot, SYS_acct, SYS_syslog,
    SYS_sethostname, SYS_setdomainname, SYS_settimeofday, SYS_clock_settime, SYS_clock_adjtime, SYS_adjtimex,
    SYS_personality, SYS_vhangup,
#ifdef SYS_kexec_file_load
    SYS_kexec_file_load,
#endif
#ifdef SYS_iopl
    SYS_iopl, SYS_ioperm, SYS_modify_ldt,
#endif
    /* ways round other checks */
    SYS_add_key, SYS_request_key, SYS_keyctl, SYS_userfaultfd, SYS_io_setup, SYS_io_submit,
#ifdef SYS_io_uring_setup
    SYS_io_uring_setup, SYS_io_uring_enter, SYS_io_uring_register,
#endif
    /* other users */
    SYS_setuid, SYS_setgid, SYS_setreuid, SYS_setregid, SYS_setresuid, SYS_setresgid, SYS_setfsuid,
    SYS_setfsgid, SYS_setgroups, SYS_capset};

#ifdef ARCHITECTURE
static size_t put_common(struct sock_filter *f)
{
    const struct sock_filter head[] = {
        LOAD(FIELD(arch)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, ARCHITECTURE, 1, 0),
        RETURN(SECCOMP_RET_KILL_PROCESS),
        LOAD(FIELD(nr)),
#ifdef __x86_64__
        /* x32: the same calls by other numbers. */
        BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, 0x40000000, 0, 1),
        RETURN(SECCOMP_RET_KILL_PROCESS),
#endif
        /* What it makes cannot be seen; the C library takes clone() then. */
        UNLESS(SYS_clone3, 1),
        REFUSE(ENOSYS),
        UNLESS(SYS_clone, 4),
        LOAD(LOW(0)),
        UNLESS_ANY(NEW_NAMESPACES, 1),
        REFUSE(EPERM),
        RETURN(SECCOMP_RET_ALLOW),
        UNLESS(SYS_setns, 4),
        LOAD(LOW(1)),
        UNLESS(CLONE_NEWNET, 1),
        RETURN(SECCOMP_RET_ALLOW),
        REFUSE(EPERM),
    };

    memcpy(f, head, sizeof(head));
    return sizeof(head) / sizeof(head[0]);
}

static size_t put_proxys(struct sock_filter *f)
{
    const struct sock_filter more[] = {
        UNLESS(SYS_perf_event_open, 1),
        REFUSE(EPERM),
        UNLESS(SYS_pidfd_getfd, 1), /* the agent takes listeners of other node proxies so */
        REFUSE(EPERM),
        /* Maps that it was given are read and written; none is opened or made. */
        UNLESS(SYS_bpf, 12),
        LOAD(LOW(0)),
        UNLESS(BPF_MAP_UPDATE_ELEM, 1),
        RETURN(SECCOMP_RET_ALLOW),
        UNLESS(BPF_MAP_DELETE_ELEM, 1),
        RETURN(SECCOMP_RET_ALLOW),
        UNLESS(BPF_MAP_LOOKUP_ELEM, 1),
        RETURN(SECCOMP_RET_ALLOW),
        UNLESS(BPF_MAP_GET_NEXT_KEY, 1),
        RETURN(SECCOMP_RET_ALLOW),
        UNLESS(BPF_MAP_LOOKUP_BATCH, 1),
        RETURN(SECCOMP_RET_ALLOW),
        REFUSE(EPERM),
    };

    memcpy(f, more, sizeof(more));
    return sizeof(more) / sizeof(more[0]);
}

int privileges_filter(enum privileges_role role)
{
    struct sock_filter filter[48 + 2 * sizeof(refused) / sizeof(refused[0])];
    struct sock_fprog program = {.filter = filter};
    size_t n = put_common(filter);
    long r;

    if (SANITIZED)
        return 0;
    if (role == PRIVILEGES_PROXY)
        n += put_proxys(filter + n);
    for (size_t i = 0; i < sizeof(refused) / sizeof(refused[0]); i++) {
        filter[n++] = (struct sock_filter)UNLESS(refused[i], 1);
        filter[n++] = (struct sock_filter)REFUSE(EPERM);
    }
    filter[n++] = (struct sock_filter)RETURN(SECCOMP_RET_ALLOW);
    program.len = (unsigned short)n;
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
        return -errno;
    r = syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, &program);
    /* More than 0: the thread that could not be brought along. */
    return r < 0 ? (errno == EINVAL ? -ENOSYS : -errno) : r > 0 ? -EBUSY : 0;
}
#else
int privileges_filter(enum privileges_role role)
{
    (void)role;
    (void)refused;
    return -ENOSYS;
}
#endif
