/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Preloaded into a program by faults.py. Two things, of which a test uses one:
 *
 *   FAULTS_WAITS=FILE     every call by which the thread of an event loop (one that has called epoll_wait())
 *                         could wait is made to wait: it takes FAULTS_WAIT milliseconds more, and is written
 *                         to FILE, a line each. What cannot wait, such as a read of a non-blocking
 *                         descriptor, is left alone. FAULTS_DNS: so many milliseconds does each name take in
 *                         any thread.
 *   FAULTS_CONTROL=FILE   a struct control, shared with the test: calls of one kind fail while it says so.
 */
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <execinfo.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <linux/magic.h>
#include <netdb.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/pidfd.h>
#include <sys/prctl.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

/* Which the headers of older kernels lack. */
#define TCX_INGRESS 46
#define TCX_EGRESS  47

/* The order is known to faults.py. */
enum call {
    CALL_NONE,
    CALL_FCNTL_DUP,
    CALL_EPOLL_ADD,
    CALL_EPOLL_MOD,
    CALL_SETNS,
    CALL_SOCKET,
    CALL_ACCEPT,
    CALL_OPEN,
    CALL_OPENDIR,
    CALL_BPF,
    CALL_LISTEN,
    CALL_BIND,
    CALL_SETSOCKOPT,
    CALL_DUP,
    CALL_PIDFD,
    CALL_EPOLL_WAIT,
    CALL_EPOLL_WAIT_OF_A_WORKER,
    CALL_EPOLL_WAIT_OF_FLOWS,
    CALL_SENDMSG_OF_A_WORKER,
    CALL_TCX, /* a program to a device, as older kernels do not know it */
    CALL_INOTIFY,
    CALLS,
};

static bool fails(enum call call);

struct control {
    uint32_t call;  /* enum call that fails */
    int32_t error;  /* errno; negative: a signal that the process gets in place of the call */
    uint32_t skip;  /* so many succeed first */
    uint32_t times; /* so many fail then */
    uint64_t seen[CALLS], failed;
};

static struct control *control;
static int waits_fd = -1;
static long wait_milliseconds, dns_milliseconds;
static __thread bool is_loop, inside;

#define NEXT(name)                 \
    static __typeof__(name) *next; \
    if (!next)                     \
    next = (__typeof__(name) *)dlsym(RTLD_NEXT, #name)

__attribute__((constructor)) static void start(void)
{
    const char *waits = getenv("FAULTS_WAITS"), *shared = getenv("FAULTS_CONTROL"),
               *ms = getenv("FAULTS_WAIT"), *dns = getenv("FAULTS_DNS");
    int fd;

    wait_milliseconds = ms ? atol(ms) : 0;
    dns_milliseconds = dns ? atol(dns) : 0;
    if (waits)
        waits_fd = (int)syscall(SYS_openat, AT_FDCWD, waits, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    fd = shared ? (int)syscall(SYS_openat, AT_FDCWD, shared, O_RDWR | O_CLOEXEC) : -1;
    if (fd >= 0) {
        control = mmap(NULL, sizeof(*control), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        if (control == MAP_FAILED)
            control = NULL;
        syscall(SYS_close, fd);
    }
}

/* ---- waiting ---- */

static void waited(const char *call, const char *detail)
{
    struct timespec ts = {wait_milliseconds / 1000, wait_milliseconds % 1000 * 1000000};
    void *frames[10];
    char line[2048];
    int e = errno, n = 0, depth;

    if (!is_loop || inside || waits_fd < 0)
        return;
    inside = true;
    depth = backtrace(frames, 10);
    n = snprintf(line, sizeof(line), "%s %s", call, detail);
    for (int i = 2; i < depth && n < (int)sizeof(line) - 40; i++) {
        Dl_info info;
        bool named = dladdr(frames[i], &info) && info.dli_fname;

        n += snprintf(line + n, sizeof(line) - (size_t)n, " %s+%#lx",
                      named ? strrchr(info.dli_fname, '/') + 1 : "?",
                      named ? (unsigned long)((char *)frames[i] - (char *)info.dli_fbase) : 0ul);
        if (n >= (int)sizeof(line))
            n = (int)sizeof(line) - 1;
    }
    line[n++] = '\n';
    syscall(SYS_write, waits_fd, line, (size_t)n);
    syscall(SYS_nanosleep, &ts, NULL);
    inside = false;
    errno = e;
}

/* Descriptors of sockets, pipes and the like wait unless they are told not to. */
static bool may_wait(int fd)
{
    char path[40], name[64];
    struct stat st;
    ssize_t n;

    if (!is_loop || waits_fd < 0 || fstat(fd, &st) < 0 || S_ISREG(st.st_mode) || S_ISDIR(st.st_mode))
        return false;
    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    n = readlink(path, name, sizeof(name) - 1);
    name[n > 0 ? n : 0] = '\0';
    /* Its program runs while it is read, and nobody is waited for. */
    if (!strcmp(name, "anon_inode:bpf_iter"))
        return false;
    return !((int)syscall(SYS_fcntl, fd, F_GETFL) & O_NONBLOCK);
}

/* A file of a disk, a network or somebody's program; not of the kernel's own file systems. */
static bool slow_file(int directory, const char *path)
{
    struct statfs fs;
    struct stat st;
    char whole[4096];

    /* libbpf opens the root to have a number. */
    if (!is_loop || inside || waits_fd < 0 || !strcmp(path, "/"))
        return false;
    if (*path != '/' && directory != AT_FDCWD)
        snprintf(whole, sizeof(whole), "/proc/self/fd/%d/%s", directory, path);
    else
        snprintf(whole, sizeof(whole), "%s", path);
    if (stat(whole, &st) == 0 && S_ISFIFO(st.st_mode))
        return true;
    if (statfs(whole, &fs) < 0) {
        char *slash = strrchr(whole, '/');

        if (!slash)
            return false;
        *slash = '\0';
        if (statfs(whole, &fs) < 0)
            return false;
    }
    switch ((unsigned long)fs.f_type) {
    case PROC_SUPER_MAGIC:
    case SYSFS_MAGIC:
    case CGROUP_SUPER_MAGIC:
    case CGROUP2_SUPER_MAGIC:
    case BPF_FS_MAGIC:
    case NSFS_MAGIC:
    case TMPFS_MAGIC:
        return false;
    default:
        return true;
    }
}

/* Whether this thread has a name that begins like this. */
static bool is_named(const char *start)
{
    char name[16] = "";

    return prctl(PR_GET_NAME, name) == 0 && !strncmp(name, start, strlen(start));
}

static bool is_worker(void)
{
    return is_named("worker-");
}

int epoll_wait(int fd, struct epoll_event *events, int max, int timeout)
{
    NEXT(epoll_wait);
    is_loop = true;
    if ((gettid() == getpid() && fails(CALL_EPOLL_WAIT)) ||
        (is_worker() && fails(CALL_EPOLL_WAIT_OF_A_WORKER)) ||
        (is_named("flows") && fails(CALL_EPOLL_WAIT_OF_FLOWS)))
        return -1;
    return next(fd, events, max, timeout);
}

int nanosleep(const struct timespec *a, struct timespec *b)
{
    NEXT(nanosleep);
    waited("nanosleep", "");
    return next(a, b);
}

int clock_nanosleep(clockid_t clock, int flags, const struct timespec *a, struct timespec *b)
{
    NEXT(clock_nanosleep);
    waited("clock_nanosleep", "");
    return next(clock, flags, a, b);
}

int usleep(useconds_t n)
{
    NEXT(usleep);
    waited("usleep", "");
    return next(n);
}

unsigned sleep(unsigned n)
{
    NEXT(sleep);
    waited("sleep", "");
    return next(n);
}

int poll(struct pollfd *fds, nfds_t n, int timeout)
{
    NEXT(poll);
    if (timeout)
        waited("poll", "");
    return next(fds, n, timeout);
}

int select(int n, fd_set *r, fd_set *w, fd_set *x, struct timeval *timeout)
{
    NEXT(select);
    if (!timeout || timeout->tv_sec || timeout->tv_usec)
        waited("select", "");
    return next(n, r, w, x, timeout);
}

int getaddrinfo(const char *node, const char *service, const struct addrinfo *hints, struct addrinfo **ret)
{
    struct timespec ts = {dns_milliseconds / 1000, dns_milliseconds % 1000 * 1000000};

    NEXT(getaddrinfo);
    /* An address is only read. */
    if (!(hints && hints->ai_flags & AI_NUMERICHOST)) {
        waited("getaddrinfo", node ? node : "");
        syscall(SYS_nanosleep, &ts, NULL);
    }
    return next(node, service, hints, ret);
}

int fsync(int fd)
{
    NEXT(fsync);
    waited("fsync", "");
    return next(fd);
}

int fdatasync(int fd)
{
    NEXT(fdatasync);
    waited("fdatasync", "");
    return next(fd);
}

int flock(int fd, int operation)
{
    NEXT(flock);
    if (!(operation & LOCK_NB))
        waited("flock", "");
    return next(fd, operation);
}

int pthread_join(pthread_t thread, void **ret)
{
    NEXT(pthread_join);
    /* One that has told of its end has a few instructions left. */
    for (int i = 0; is_loop && i < 100; i++) {
        struct timespec ts = {0, 1000000};

        if (pthread_tryjoin_np(thread, ret) == 0)
            return 0;
        syscall(SYS_nanosleep, &ts, NULL);
    }
    waited("pthread_join", "");
    return next(thread, ret);
}

ssize_t read(int fd, void *buf, size_t n)
{
    NEXT(read);
    if (may_wait(fd))
        waited("read", "");
    return next(fd, buf, n);
}

ssize_t write(int fd, const void *buf, size_t n)
{
    NEXT(write);
    if (may_wait(fd))
        waited("write", "");
    return next(fd, buf, n);
}

ssize_t recv(int fd, void *buf, size_t n, int flags)
{
    NEXT(recv);
    if (!(flags & MSG_DONTWAIT) && may_wait(fd))
        waited("recv", "");
    return next(fd, buf, n, flags);
}

ssize_t recvfrom(int fd, void *buf, size_t n, int flags, struct sockaddr *from, socklen_t *len)
{
    NEXT(recvfrom);
    if (!(flags & MSG_DONTWAIT) && may_wait(fd))
        waited("recvfrom", "");
    return next(fd, buf, n, flags, from, len);
}

ssize_t recvmsg(int fd, struct msghdr *m, int flags)
{
    NEXT(recvmsg);
    if (!(flags & MSG_DONTWAIT) && may_wait(fd))
        waited("recvmsg", "");
    return next(fd, m, flags);
}

ssize_t send(int fd, const void *buf, size_t n, int flags)
{
    NEXT(send);
    if (!(flags & MSG_DONTWAIT) && may_wait(fd))
        waited("send", "");
    return next(fd, buf, n, flags);
}

ssize_t sendto(int fd, const void *buf, size_t n, int flags, const struct sockaddr *to, socklen_t len)
{
    NEXT(sendto);
    if (!(flags & MSG_DONTWAIT) && may_wait(fd))
        waited("sendto", "");
    return next(fd, buf, n, flags, to, len);
}

ssize_t sendmsg(int fd, const struct msghdr *m, int flags)
{
    NEXT(sendmsg);
    if (!(flags & MSG_DONTWAIT) && may_wait(fd))
        waited("sendmsg", "");
    return is_worker() && fails(CALL_SENDMSG_OF_A_WORKER) ? -1 : next(fd, m, flags);
}

int connect(int fd, const struct sockaddr *to, socklen_t len)
{
    NEXT(connect);
    if (may_wait(fd))
        waited("connect", "");
    return next(fd, to, len);
}

int rename(const char *from, const char *to)
{
    NEXT(rename);
    if (slow_file(AT_FDCWD, to))
        waited("rename", to);
    return next(from, to);
}

int unlink(const char *path)
{
    NEXT(unlink);
    if (slow_file(AT_FDCWD, path))
        waited("unlink", path);
    return next(path);
}

/* ---- failing ---- */

static bool fails(enum call call)
{
    if (!control || inside)
        return false;
    __atomic_fetch_add(&control->seen[call], 1, __ATOMIC_RELAXED);
    if (__atomic_load_n(&control->call, __ATOMIC_ACQUIRE) != (uint32_t)call)
        return false;
    if (__atomic_load_n(&control->skip, __ATOMIC_RELAXED) > 0) {
        __atomic_fetch_sub(&control->skip, 1, __ATOMIC_RELAXED);
        return false;
    }
    if (!__atomic_load_n(&control->times, __ATOMIC_RELAXED))
        return false;
    __atomic_fetch_sub(&control->times, 1, __ATOMIC_RELAXED);
    __atomic_fetch_add(&control->failed, 1, __ATOMIC_RELAXED);
    if (control->error < 0) {
        raise(-control->error); /* to this thread: another one would stop it some time later */
        return false;
    }
    errno = control->error;
    return true;
}

int accept4(int fd, struct sockaddr *from, socklen_t *len, int flags)
{
    NEXT(accept4);
    return fails(CALL_ACCEPT) ? -1 : next(fd, from, len, flags);
}

int epoll_ctl(int epoll, int operation, int fd, struct epoll_event *event)
{
    NEXT(epoll_ctl);
    if ((operation == EPOLL_CTL_ADD && fails(CALL_EPOLL_ADD)) ||
        (operation == EPOLL_CTL_MOD && fails(CALL_EPOLL_MOD)))
        return -1;
    return next(epoll, operation, fd, event);
}

int fcntl(int fd, int command, ...)
{
    va_list ap;
    void *argument;

    va_start(ap, command);
    argument = va_arg(ap, void *);
    va_end(ap);
    if ((command == F_DUPFD_CLOEXEC || command == F_DUPFD) && fails(CALL_FCNTL_DUP))
        return -1;
    return (int)syscall(SYS_fcntl, fd, command, argument);
}

int fcntl64(int fd, int command, ...) __attribute__((alias("fcntl")));

int dup(int fd)
{
    return fails(CALL_DUP) ? -1 : (int)syscall(SYS_dup, fd);
}

int setns(int fd, int type)
{
    NEXT(setns);
    return fails(CALL_SETNS) ? -1 : next(fd, type);
}

int socket(int domain, int type, int protocol)
{
    NEXT(socket);
    return fails(CALL_SOCKET) ? -1 : next(domain, type, protocol);
}

int listen(int fd, int backlog)
{
    NEXT(listen);
    return fails(CALL_LISTEN) ? -1 : next(fd, backlog);
}

int bind(int fd, const struct sockaddr *to, socklen_t len)
{
    NEXT(bind);
    return fails(CALL_BIND) ? -1 : next(fd, to, len);
}

int setsockopt(int fd, int level, int name, const void *value, socklen_t len)
{
    NEXT(setsockopt);
    return fails(CALL_SETSOCKOPT) ? -1 : next(fd, level, name, value, len);
}

int open(const char *path, int flags, ...)
{
    va_list ap;
    mode_t mode;

    va_start(ap, flags);
    mode = va_arg(ap, mode_t);
    va_end(ap);
    if (!(flags & O_PATH) && slow_file(AT_FDCWD, path))
        waited("open", path);
    return fails(CALL_OPEN) ? -1 : (int)syscall(SYS_openat, AT_FDCWD, path, flags, mode);
}

int open64(const char *path, int flags, ...) __attribute__((alias("open")));

int openat(int directory, const char *path, int flags, ...)
{
    va_list ap;
    mode_t mode;

    va_start(ap, flags);
    mode = va_arg(ap, mode_t);
    va_end(ap);
    if (!(flags & O_PATH) && slow_file(directory, path))
        waited("openat", path);
    return fails(CALL_OPEN) ? -1 : (int)syscall(SYS_openat, directory, path, flags, mode);
}

int openat64(int directory, const char *path, int flags, ...) __attribute__((alias("openat")));

FILE *fopen(const char *path, const char *mode)
{
    NEXT(fopen);
    if (slow_file(AT_FDCWD, path))
        waited("fopen", path);
    return fails(CALL_OPEN) ? NULL : next(path, mode);
}

DIR *opendir(const char *path)
{
    NEXT(opendir);
    if (slow_file(AT_FDCWD, path))
        waited("opendir", path);
    return fails(CALL_OPENDIR) ? NULL : next(path);
}

int inotify_init1(int flags)
{
    NEXT(inotify_init1);
    return fails(CALL_INOTIFY) ? -1 : next(flags);
}

int pidfd_open(pid_t pid, unsigned flags)
{
    return fails(CALL_PIDFD) ? -1 : (int)syscall(SYS_pidfd_open, pid, flags);
}

static bool is_tcx(const long a[6])
{
    const union bpf_attr *attr = (const union bpf_attr *)a[1];

    return a[0] == BPF_LINK_CREATE &&
           (attr->link_create.attach_type == TCX_INGRESS || attr->link_create.attach_type == TCX_EGRESS);
}

/* libbpf calls the kernel by it. */
long syscall(long number, ...)
{
    static __typeof__(syscall) *next;
    long a[6];
    va_list ap;

    if (!next)
        next = (__typeof__(syscall) *)dlsym(RTLD_NEXT, "syscall");
    va_start(ap, number);
    for (int i = 0; i < 6; i++)
        a[i] = va_arg(ap, long);
    va_end(ap);
    if (number == SYS_bpf && (fails(CALL_BPF) || (is_tcx(a) && fails(CALL_TCX))))
        return -1;
    return next(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}
