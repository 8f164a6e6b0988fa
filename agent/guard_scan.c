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

#include "cleanup.h"
#include "guard.h"
#include "netns.h"

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

static int look_at(struct namespaces *n, const char *pid)
{
    char path[600];
    struct stat st;
    uint64_t cookie;

    snprintf(path, sizeof(path), "%s/%s/ns/net", n->proc, pid);
    if (stat(path, &st) < 0 || is_seen(n, &st))
        return 0;
    _cleanup_fd_ int fd = netns_open(path);

    if (fd < 0 || netns_cookie(fd, &cookie) < 0 || fstat(fd, &st) < 0)
        return 0;
    if (n->len == n->size && grow(n) < 0)
        return -ENOMEM;
    n->seen[n->len].device = st.st_dev;
    n->seen[n->len].inode = st.st_ino;
    n->cookies[n->len++] = cookie;
    return 0;
}

static int processes(struct namespaces *n, int directory)
{
    _cleanup_fd_ int fd = openat(directory, "cgroup.procs", O_RDONLY | O_CLOEXEC);
    FILE *f = fd < 0 ? NULL : fdopen(fd, "re");
    char line[32];
    int r = 0;

    if (!f)
        return 0; /* a threaded group; its processes are named by the one above */
    (void)take_fd(&fd);
    while (r == 0 && fgets(line, sizeof(line), f)) {
        line[strcspn(line, "\n")] = '\0';
        r = look_at(n, line);
    }
    (void)fclose(f);
    return r;
}

static int walk(struct namespaces *n, int parent, const char *name, int depth)
{
    _cleanup_fd_ int fd = openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    struct dirent *e;
    DIR *dir;
    int r;

    if (fd < 0)
        return errno == ENOENT ? 0 : -errno;
    r = processes(n, fd);
    dir = depth ? fdopendir(fcntl(fd, F_DUPFD_CLOEXEC, 3)) : NULL;
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
