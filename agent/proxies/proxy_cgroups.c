/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/proxies/proxy_cgroups.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/magic.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/stat.h>
#include <sys/vfs.h>

#include "lib/cleanup.h"
#include "lib/file.h"
#include "lib/proc.h"
#include "lib/reasons.h"

#define LOG_SCOPE "proxies"
#include "lib/log.h"

struct exempt {
    struct list node;
    struct proxy_cgroups *cgroups;
    struct loop_watch exit; /* the process's pidfd */
    pid_t pid;
    uint64_t id;
};

__attribute__((format(printf, 3, 4))) static int refuse(struct steer_error *error, int r, const char *format,
                                                        ...)
{
    va_list ap;

    error->reason = BRUMA_REASON_PROXY_CGROUP;
    va_start(ap, format);
    vsnprintf(error->text, sizeof(error->text), format, ap);
    va_end(ap);
    return r;
}

static int read_cgroup(const char *proc, pid_t pid, char *buf, size_t size)
{
    char path[PATH_MAX / 8];
    ssize_t n;

    snprintf(path, sizeof(path), "%s/%d/cgroup", proc, (int)pid);
    n = file_read_text(AT_FDCWD, path, 0, buf, size);
    return n < 0 ? (int)n : 0;
}

static bool is_cgroup2(const char *path)
{
    struct statfs fs;

    return statfs(path, &fs) == 0 && (unsigned long)fs.f_type == CGROUP2_SUPER_MAGIC;
}

/* The mounted directory that this one is in: the highest one that is cgroup2 still. */
static int root_of(const char *cgroup, char *buf, size_t size)
{
    char *slash;

    if (!is_cgroup2(cgroup) || snprintf(buf, size, "%s", cgroup) >= (int)size)
        return -EINVAL;
    while ((slash = strrchr(buf, '/')) && slash != buf) {
        *slash = '\0';
        if (is_cgroup2(buf))
            continue;
        *slash = '/';
        break;
    }
    return 0;
}

/* By identity and not by name: a mount may show the directory under a second path, and --cgroup may name
 * that. full begins with root. */
static bool is_below(const char *full, const char *root, const char *pods_cgroup)
{
    _cleanup_free_ char *at = strdup(full);
    struct stat wanted, st;
    char *slash;

    if (!at || stat(pods_cgroup, &wanted) < 0)
        return false;
    while ((slash = strrchr(at, '/')) && slash >= at + strlen(root)) {
        *slash = '\0';
        if (stat(at, &st) == 0 && st.st_dev == wanted.st_dev && st.st_ino == wanted.st_ino)
            return true;
    }
    return false;
}

int proxy_cgroups_find(const char *proc, pid_t pid, const char *pods_cgroup, uint64_t *ret,
                       struct steer_error *error)
{
    char text[8192], root[PATH_MAX / 4], full[PATH_MAX], *path;
    struct stat st;
    int r = read_cgroup(proc, pid, text, sizeof(text));

    if (r < 0)
        return refuse(error, r, "the cgroup of process %d cannot be read: %s", (int)pid, strerror(-r));
    path = proc_cgroup2(text);
    if (!path)
        return refuse(error, -EXDEV, "process %d is in no cgroup2", (int)pid);
    r = root_of(pods_cgroup, root, sizeof(root));
    if (r < 0)
        return refuse(error, r, "%.100s is not a cgroup2 directory", pods_cgroup);
    if (snprintf(full, sizeof(full), "%s%s", root, path) >= (int)sizeof(full))
        return refuse(error, -ENAMETOOLONG, "the path of the cgroup of process %d is too long", (int)pid);
    /* A path that is seen as "/../..." is above the agent's own cgroup namespace. */
    if (!path[1] || !strncmp(path, "/..", 3) || !is_below(full, root, pods_cgroup))
        return refuse(error, -EXDEV, "process %d is in cgroup %.100s, which is not below %.100s", (int)pid,
                      path, pods_cgroup);
    if (stat(full, &st) < 0)
        return refuse(error, -errno, "cgroup %.150s: %s", full, strerror(errno));
    *ret = st.st_ino; /* a cgroup's id is its inode number */
    return 0;
}

static void forget(struct exempt *e)
{
    int pidfd = e->exit.fd;

    loop_watch_remove(e->cgroups->loop, &e->exit);
    close(pidfd);
    list_del(&e->node);
    loop_free_later(e->cgroups->loop, e);
}

static void on_exit_of(struct loop_watch *watch, uint32_t events)
{
    struct exempt *e = container_of(watch, struct exempt, exit), *other;
    struct proxy_cgroups *cgroups = e->cgroups;
    uint64_t id = e->id;
    int r;

    (void)events;
    log_info("a node proxy has ended\tpid=%d", (int)e->pid);
    forget(e);
    list_for_each (other, &cgroups->list, node) {
        if (other->id == id)
            return;
    }
    r = steer_proxy_cgroup_remove(cgroups->steer, id);
    if (r < 0)
        log_error_errno(r, "the cgroup of a proxy that has ended stays exempt\tcgroup=%lu",
                        (unsigned long)id);
}

static int follow(struct proxy_cgroups *cgroups, pid_t pid, uint64_t id)
{
    _cleanup_fd_ int pidfd = pidfd_open(pid, 0);
    _cleanup_free_ struct exempt *e = calloc(1, sizeof(*e));
    int r;

    if (pidfd < 0)
        return -errno;
    if (!e)
        return -ENOMEM;
    e->cgroups = cgroups;
    e->pid = pid;
    e->id = id;
    list_init(&e->node);
    r = loop_watch_add(cgroups->loop, &e->exit, pidfd, EPOLLIN, on_exit_of);
    if (r < 0)
        return r;
    take_fd(&pidfd);
    list_add_tail(&cgroups->list, &e->node);
    (void)take_pointer(e);
    return 0;
}

int proxy_cgroups_add(struct proxy_cgroups *cgroups, pid_t pid, struct steer_error *error)
{
    struct exempt *e;
    uint64_t id;
    int r = proxy_cgroups_find("/proc", pid, cgroups->pods_cgroup, &id, error);

    if (r < 0)
        return r;
    list_for_each (e, &cgroups->list, node) {
        if (e->pid == pid && e->id == id)
            return 0;
    }
    r = follow(cgroups, pid, id);
    if (r < 0)
        return refuse(error, r, "process %d cannot be followed: %s", (int)pid, strerror(-r));
    r = steer_proxy_cgroup_add(cgroups->steer, id, (uint32_t)pid);
    if (r < 0) {
        forget(list_entry(cgroups->list.prev, struct exempt, node));
        return refuse(error, r, "the cgroup of process %d cannot be written to the map proxy_cgroups: %s",
                      (int)pid, strerror(-r));
    }
    return 0;
}

void proxy_cgroups_open(struct proxy_cgroups *cgroups, struct loop *loop, struct steer *steer,
                        const char *pods_cgroup)
{
    _cleanup_free_ struct steer_proxy_cgroup *known = NULL;
    int n = steer_proxy_cgroups(steer, &known);

    cgroups->loop = loop;
    cgroups->steer = steer;
    cgroups->pods_cgroup = pods_cgroup;
    list_init(&cgroups->list);
    for (int i = 0; i < n; i++) {
        struct steer_error ignored;
        uint64_t id = 0;

        /* Another process may have the number by now; one in the same cgroup is the same to us. */
        if (pods_cgroup &&
            proxy_cgroups_find("/proc", (pid_t)known[i].pid, pods_cgroup, &id, &ignored) == 0 &&
            id == known[i].id && follow(cgroups, (pid_t)known[i].pid, id) == 0)
            continue;
        (void)steer_proxy_cgroup_remove(steer, known[i].id);
    }
}

void proxy_cgroups_close(struct proxy_cgroups *cgroups)
{
    struct exempt *e;

    list_for_each (e, &cgroups->list, node)
        forget(e);
}
