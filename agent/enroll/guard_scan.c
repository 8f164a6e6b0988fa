/* SPDX-License-Identifier: Apache-2.0 */
/* Where pods are, by the control groups that the kubelet makes for them. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "agent/enroll/guard.h"
#include "lib/cleanup.h"
#include "lib/netns.h"

#define ROOT_DEPTH 3 /* of the kubelet's --cgroup-root, mostly none */
#define PODS_DEPTH 8 /* class, pod, container, and what containers make for themselves */

/* kubepods; kubepods.slice of the systemd driver; kubelet-kubepods.slice below a root of that name. */
static bool is_of_pods(const char *name)
{
    size_t len = strlen(name);

    return !strcmp(name, "kubepods") || !strcmp(name, "kubepods.slice") ||
           (len > 15 && !strcmp(name + len - 15, "-kubepods.slice"));
}

static int find(const char *directory, int depth, char *buf, size_t size)
{
    DIR *dir = opendir(directory);
    struct dirent *e;
    int r = -ENOENT;

    if (!dir)
        return errno == ENOENT ? -ENOENT : -errno;
    while (r == -ENOENT && (e = readdir(dir))) {
        if (e->d_type == DT_DIR && is_of_pods(e->d_name))
            r = snprintf(buf, size, "%s/%s", directory, e->d_name) >= (int)size ? -ENAMETOOLONG : 0;
    }
    rewinddir(dir);
    /* Breadth first would be nicer; there is one in practice, and it is not below another pod's. */
    while (r == -ENOENT && depth > 1 && (e = readdir(dir))) {
        char path[512];

        if (e->d_type == DT_DIR && *e->d_name != '.' &&
            snprintf(path, sizeof(path), "%s/%s", directory, e->d_name) < (int)sizeof(path))
            r = find(path, depth - 1, buf, size);
    }
    closedir(dir);
    return r;
}

int guard_find_cgroup(const char *root, char *buf, size_t size)
{
    const char *last = strrchr(root, '/');

    if (last && is_of_pods(last + 1))
        return snprintf(buf, size, "%s", root) >= (int)size ? -ENAMETOOLONG : 0;
    return find(root, ROOT_DEPTH, buf, size);
}

/* ---- namespaces ---- */

struct namespaces {
    const char *proc;
    struct {
        dev_t device;
        ino_t inode;
    } * seen;
    uint64_t *cookies; /* of seen */
    int len, size;
};

static bool is_seen(const struct namespaces *n, const struct stat *st)
{
    for (int i = 0; i < n->len; i++) {
        if (n->seen[i].inode == st->st_ino && n->seen[i].device == st->st_dev)
            return true;
    }
    return false;
}

static int grow(struct namespaces *n)
{
    int size = n->size ? 2 * n->size : 64;
    void *seen = reallocarray(n->seen, (size_t)size, sizeof(*n->seen)), *cookies;

    if (!seen)
        return -ENOMEM;
    n->seen = seen;
    cookies = reallocarray(n->cookies, (size_t)size, sizeof(*n->cookies));
    if (!cookies)
        return -ENOMEM;
    n->cookies = cookies;
    n->size = size;
    return 0;
}

/* 0: it is among them. */
static int look_at(struct namespaces *n, const char *path)
{
    struct stat st;
    uint64_t cookie;
    int r;

    if (stat(path, &st) < 0)
        return -errno;
    if (is_seen(n, &st))
        return 0;
    _cleanup_fd_ int fd = netns_open(path);

    if (fd < 0)
        return fd;
    r = netns_cookie(fd, &cookie);
    if (r < 0)
        return r;
    if (fstat(fd, &st) < 0)
        return -errno;
    if (n->len == n->size && grow(n) < 0)
        return -ENOMEM;
    n->seen[n->len].device = st.st_dev;
    n->seen[n->len].inode = st.st_ino;
    n->cookies[n->len++] = cookie;
    return 0;
}

/* A process whose first thread has ended lives on in its others, and only they have a namespace. */
static int look_at_threads(struct namespaces *n, pid_t pid)
{
    char path[600];
    struct dirent *e;
    DIR *dir;
    int r = -ENOENT;

    snprintf(path, sizeof(path), "%s/%d/task", n->proc, (int)pid);
    dir = opendir(path);
    if (!dir)
        return -errno;
    while (r < 0 && r != -ENOMEM && (e = readdir(dir))) {
        snprintf(path, sizeof(path), "%s/%d/task/%.16s/ns/net", n->proc, (int)pid, e->d_name);
        if (*e->d_name != '.')
            r = look_at(n, path);
    }
    closedir(dir);
    return r;
}

static int look_at_process(struct namespaces *n, pid_t pid)
{
    char path[600];
    int r;

    snprintf(path, sizeof(path), "%s/%d/ns/net", n->proc, (int)pid);
    r = look_at(n, path);
    return r == -ENOENT || r == -ESRCH ? look_at_threads(n, pid) : r;
}

/* Processes that are listed and could not be looked at. */
struct unseen {
    pid_t *pids;
    int len, size;
};

static bool is_among(const struct unseen *u, pid_t pid)
{
    for (int i = 0; i < u->len; i++) {
        if (u->pids[i] == pid)
            return true;
    }
    return false;
}

static int add_unseen(struct unseen *u, pid_t pid)
{
    if (u->len == u->size) {
        int size = u->size ? 2 * u->size : 16;
        pid_t *pids = reallocarray(u->pids, (size_t)size, sizeof(*pids));

        if (!pids)
            return -ENOMEM;
        u->pids = pids;
        u->size = size;
    }
    u->pids[u->len++] = pid;
    return 0;
}

/* Reads the list once. again: whoever is in unseen already and still cannot be looked at is an error. */
static int read_list(struct namespaces *n, int directory, struct unseen *unseen, bool again)
{
    _cleanup_fd_ int fd = openat(directory, "cgroup.procs", O_RDONLY | O_CLOEXEC);
    FILE *f = fd < 0 ? NULL : fdopen(fd, "re");
    char line[32];
    int r = 0;

    if (!f)
        return errno == ENOENT || errno == ENODEV ? 0 : -errno; /* the group has gone */
    (void)take_fd(&fd);
    while (r == 0 && fgets(line, sizeof(line), f)) {
        pid_t pid = (pid_t)strtol(line, NULL, 10);

        /* What the kernel writes for a process outside of our own PID namespace. */
        r = pid > 0 ? look_at_process(n, pid) : -EACCES;
        if (r < 0 && r != -ENOMEM && pid > 0 && !(again && is_among(unseen, pid)))
            r = again ? 0 : add_unseen(unseen, pid);
    }
    if (r == 0 && ferror(f) && errno != EOPNOTSUPP && errno != ENODEV)
        r = -errno; /* EOPNOTSUPP: a threaded group; its processes are named by the one above */
    (void)fclose(f);
    return r;
}

/* Most processes that cannot be looked at have ended since they were listed; the others are why nothing can
 * be said of their pod. */
static int processes(struct namespaces *n, int directory)
{
    struct unseen unseen = {0};
    int r = read_list(n, directory, &unseen, false);

    if (r == 0 && unseen.len)
        r = read_list(n, directory, &unseen, true);
    free(unseen.pids);
    return r;
}

static int walk(struct namespaces *n, int parent, const char *name, int depth)
{
    _cleanup_fd_ int fd = openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    struct dirent *e;
    DIR *dir = NULL;
    int r;

    if (fd < 0)
        return errno == ENOENT ? 0 : -errno;
    r = processes(n, fd);
    if (r == 0 && depth) {
        _cleanup_fd_ int copy = fcntl(fd, F_DUPFD_CLOEXEC, 3);

        dir = copy < 0 ? NULL : fdopendir(copy);
        if (!dir)
            return -errno;
        (void)take_fd(&copy);
    }
    while (r == 0 && dir && (e = readdir(dir))) {
        if (e->d_type == DT_DIR && strcmp(e->d_name, ".") && strcmp(e->d_name, ".."))
            r = walk(n, fd, e->d_name, depth - 1);
    }
    if (dir)
        closedir(dir);
    return r;
}

int guard_namespaces(const char *cgroup, const char *proc, uint64_t **ret)
{
    struct namespaces n = {.proc = proc};
    int r = walk(&n, AT_FDCWD, cgroup, PODS_DEPTH);

    free(n.seen);
    if (r < 0) {
        free(n.cookies);
        return r;
    }
    *ret = n.cookies;
    return n.len;
}
