/* SPDX-License-Identifier: Apache-2.0 */
/* The pin directory: made, locked, listed and removed. */
#define LOG_SCOPE "steer"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "agent/steer/internal.h"
#include "lib/cleanup.h"
#include "lib/log.h"

#define BPFFS_MAGIC 0xcafe4a11
#define BPFFS_USUAL "/sys/fs/bpf"

static int make_directories(const char *path)
{
    char copy[PATH_MAX / 4];

    if (snprintf(copy, sizeof(copy), "%s", path) >= (int)sizeof(copy))
        return -ENAMETOOLONG;
    for (char *at = copy + 1;; at++) {
        char c = *at;

        if (c && c != '/')
            continue;
        *at = '\0';
        if (mkdir(copy, 0700) < 0 && errno != EEXIST)
            return -errno;
        *at = c;
        if (!c)
            return 0;
    }
}

static bool on_bpffs(const char *path)
{
    struct statfs fs;

    return statfs(path, &fs) == 0 && (unsigned long)fs.f_type == BPFFS_MAGIC;
}

/* Whether it is in a BPF file system, or will be once it is made: nothing is made elsewhere. */
static bool belongs_to_bpffs(const char *path)
{
    char parent[PATH_MAX / 4];
    struct stat st;

    snprintf(parent, sizeof(parent), "%s", path);
    while (stat(parent, &st) < 0 && errno == ENOENT) {
        char *slash = strrchr(parent, '/');

        if (!slash || slash == parent)
            return false;
        *slash = '\0';
    }
    return on_bpffs(parent);
}

/* A machine without systemd has the usual place, but nothing mounted there. */
static void mount_usual(const char *pin_dir)
{
    if (strncmp(pin_dir, BPFFS_USUAL, strlen(BPFFS_USUAL)) != 0 || on_bpffs(BPFFS_USUAL))
        return;
    if (mount("bpf", BPFFS_USUAL, "bpf", 0, "mode=0700") < 0)
        log_warn_errno(errno, "cannot mount a BPF file system at " BPFFS_USUAL);
}

int pin_dir_prepare(const char *pin_dir, struct steer_error *error)
{
    static const char *const parts[] = {"", "/maps", "/links", "/pods"};
    char path[PATH_MAX / 4];
    int r;

    mount_usual(pin_dir);
    for (size_t i = 0; i < array_size(parts); i++) {
        if (snprintf(path, sizeof(path), "%s%s", pin_dir, parts[i]) >= (int)sizeof(path))
            return steer_fail(error, BRUMA_REASON_PIN_DIR_UNUSABLE, ENAMETOOLONG, "pin directory %s",
                              pin_dir);
        if (!belongs_to_bpffs(path))
            return steer_fail(error, BRUMA_REASON_PIN_DIR_UNUSABLE, ENOTSUP,
                              "the pin directory %s is not in a BPF file system", pin_dir);
        r = make_directories(path);
        if (r < 0)
            return steer_fail(error, BRUMA_REASON_PIN_DIR_UNUSABLE, r, "cannot make the pin directory %s",
                              path);
    }
    return 0;
}

int pin_dir_lock(struct steer *s, struct steer_error *error)
{
    s->lock_fd = open(s->pin_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (s->lock_fd < 0)
        return steer_fail(error, BRUMA_REASON_PIN_DIR_UNUSABLE, errno, "cannot open the pin directory %s",
                          s->pin_dir);
    if (flock(s->lock_fd, LOCK_EX | LOCK_NB) == 0)
        return 0;
    return errno == EWOULDBLOCK ? steer_fail(error, BRUMA_REASON_PINS_IN_USE, EBUSY,
                                             "another agent uses the pin directory %s", s->pin_dir)
                                : steer_fail(error, BRUMA_REASON_PIN_DIR_UNUSABLE, errno,
                                             "cannot lock the pin directory %s", s->pin_dir);
}

/* ---- what is there ---- */

int steer_pods_pinned(const struct steer *s, uint64_t **ret)
{
    _cleanup_free_ uint64_t *cookies = NULL;
    char path[PATH_MAX / 4];
    struct dirent *entry;
    size_t n = 0;
    DIR *dir;

    snprintf(path, sizeof(path), "%s/pods", s->pin_dir);
    dir = opendir(path);
    if (!dir)
        return -errno;
    while ((entry = readdir(dir))) {
        uint64_t *grown;
        char *end;
        unsigned long long cookie = strtoull(entry->d_name, &end, 10);

        if (*end || end == entry->d_name)
            continue;
        grown = reallocarray(cookies, n + 1, sizeof(*cookies));
        if (!grown) {
            closedir(dir);
            return -ENOMEM;
        }
        cookies = grown;
        cookies[n++] = cookie;
    }
    closedir(dir);
    *ret = take_pointer(cookies);
    return (int)n;
}

/* ---- removal ---- */

/* Unlinks what is in the directory, and in its subdirectories, then the directory. A link's last pin is its
 * life. */
static int remove_tree(const char *path, int depth)
{
    DIR *dir = opendir(path);
    struct dirent *entry;
    int r = 0;

    if (!dir)
        return errno == ENOENT ? 0 : -errno;
    while ((entry = readdir(dir))) {
        char child[PATH_MAX / 4];

        if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, ".."))
            continue;
        if (snprintf(child, sizeof(child), "%s/%s", path, entry->d_name) >= (int)sizeof(child)) {
            r = -ENAMETOOLONG;
            continue;
        }
        if (entry->d_type == DT_DIR && depth) {
            int e = remove_tree(child, depth - 1);

            r = r ? r : e;
        } else if (unlink(child) < 0 && !r) {
            r = -errno;
        }
    }
    closedir(dir);
    if (rmdir(path) < 0 && !r && errno != ENOENT)
        r = -errno;
    return r;
}

int steer_uninstall(const char *pin_dir, struct steer_error *error)
{
    static const char *const parts[] = {"links", "pods", "maps"};
    char path[PATH_MAX / 4];

    for (size_t i = 0; i < array_size(parts); i++) {
        int r;

        if (snprintf(path, sizeof(path), "%s/%s", pin_dir, parts[i]) >= (int)sizeof(path))
            return steer_fail(error, BRUMA_REASON_INTERNAL, ENAMETOOLONG, "pin directory %s", pin_dir);
        r = remove_tree(path, 1);
        if (r < 0)
            return steer_fail(error, BRUMA_REASON_INTERNAL, r, "cannot remove %s", path);
    }
    if (rmdir(pin_dir) < 0 && errno != ENOENT && errno != ENOTEMPTY)
        return steer_fail(error, BRUMA_REASON_INTERNAL, errno, "cannot remove %s", pin_dir);
    return 0;
}
