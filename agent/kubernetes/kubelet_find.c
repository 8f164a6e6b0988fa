/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/kubernetes/kubelet_find.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "agent/netns/netns_find.h"
#include "lib/cleanup.h"
#include "lib/file.h"
#include "lib/proc.h"

#define DEPTH 8 /* of groups below the kubelet's, and of processes between it and one that it has begun */

/* ---- reading ---- */

/* As much as there is room for. */
static ssize_t read_at(int directory, const char *path, char *buf, size_t size)
{
    ssize_t n = file_read_text(directory, path, 0, buf, size);

    return n == -EFBIG ? (ssize_t)size - 1 : n;
}

static ssize_t read_of(const char *proc, pid_t pid, const char *name, char *buf, size_t size)
{
    char path[600];

    snprintf(path, sizeof(path), "%s/%d/%s", proc, pid, name);
    return read_at(AT_FDCWD, path, buf, size);
}

/* The line of cgroup2 in /proc/PID/cgroup: "0::/system.slice/kubelet.service". */
static int take_group(char *text, const char *mount, char *buf, size_t size)
{
    const char *path = proc_cgroup2(text);

    if (!path)
        return -ENOENT;
    if (!strcmp(path, "/") || !strncmp(path, "/..", 3)) /* above the root of our own cgroup namespace */
        return -EXDEV;
    return snprintf(buf, size, "%s%s", mount, path) >= (int)size ? -ENAMETOOLONG : 0;
}

static bool is_kubelet(const char *comm)
{
    static const char *const names[] = {"kubelet\n", "kubelite\n", "k3s\n", "k3s-server\n", "k3s-agent\n"};

    for (size_t i = 0; i < array_size(names); i++) {
        if (!strcmp(comm, names[i]))
            return true;
    }
    return false;
}

/* True where it cannot be told: a process that may not be looked at is none of a pod's of this node's agent.
 */
static bool in_own_netns(int directory, const char *pid)
{
    struct stat own, other;
    char path[300];

    snprintf(path, sizeof(path), "%s/ns/net", pid);
    return stat("/proc/self/ns/net", &own) < 0 || fstatat(directory, path, &other, 0) < 0 ||
           (own.st_ino == other.st_ino && own.st_dev == other.st_dev);
}

/* Real, effective, saved and that of file systems: a program that is set-uid is run by somebody. */
static bool is_roots(const char *proc, pid_t pid, unsigned *ret_uid)
{
    unsigned id[4] = {UINT_MAX, UINT_MAX, UINT_MAX, UINT_MAX};
    char text[4096], *line;

    *ret_uid = UINT_MAX;
    if (read_of(proc, pid, "status", text, sizeof(text)) <= 0 || !(line = strstr(text, "\nUid:")) ||
        sscanf(line + 5, "%u %u %u %u", &id[0], &id[1], &id[2], &id[3]) != 4)
        return false;
    *ret_uid = id[0] ? id[0] : id[1];
    return !id[0] && !id[1] && !id[2] && !id[3];
}

static bool is_program_of_it(const char *path)
{
    static const char *const names[] = {"kubelet", "kubelite", "k3s"};
    const char *last = strrchr(path, '/');

    for (size_t i = 0; last && i < array_size(names); i++) {
        if (!strncmp(last + 1, names[i], strlen(names[i])))
            return true;
    }
    return false;
}

/* NULL: it is the kubelet for all that can be seen; else why not, in words. A process is called what it likes
 * to be; its program is what root has installed. */
static const char *what_is_wrong(const struct kubelet_paths *paths, pid_t pid, char exe[KUBELET_EXE_LEN],
                                 unsigned *ret_uid)
{
    char path[600];
    struct stat st;
    ssize_t n;

    exe[0] = '\0';
    if (!is_roots(paths->proc, pid, ret_uid))
        return *ret_uid == UINT_MAX ? "its user cannot be determined" : "it does not run as root";
    snprintf(path, sizeof(path), "%s/%d/exe", paths->proc, pid);
    n = readlink(path, exe, KUBELET_EXE_LEN - 1);
    exe[n > 0 ? n : 0] = '\0';
    if (n <= 0 || stat(path, &st) < 0)
        return "its program cannot be inspected";
    if (!is_program_of_it(exe))
        return "its program has another name";
    if (!S_ISREG(st.st_mode) || st.st_uid || st.st_mode & 022)
        return "its program is writable by others than root";
    return NULL;
}

static uint64_t began_at(const char *proc, pid_t pid)
{
    char text[PROC_STAT_TEXT];
    uint64_t start;

    if (read_of(proc, pid, "stat", text, sizeof(text)) <= 0 || proc_stat_start(text, &start) < 0)
        return UINT64_MAX;
    return start;
}

static void refuse(struct kubelet_choice *c, pid_t pid, unsigned uid, const char *why)
{
    size_t len = strlen(c->refused);

    snprintf(c->refused + len, sizeof(c->refused) - len,
             uid == UINT_MAX ? "%spid %d: %s" : "%spid %d: %s (uid %u)", len ? "; " : "", (int)pid, why, uid);
}

/* One that fits. */
static void consider(struct kubelet_choice *c, const struct kubelet_choice *one, const char *known)
{
    bool was = *known && !strcmp(c->cgroup, known), is = *known && !strcmp(one->cgroup, known);

    c->candidates++;
    if (c->pid && (was != is ? was : c->began <= one->began))
        return;
    c->pid = one->pid;
    c->began = one->began;
    strcpy(c->cgroup, one->cgroup);
    strcpy(c->exe, one->exe);
}

int kubelet_find(const struct kubelet_paths *paths, const char *known, struct kubelet_choice *ret)
{
    DIR *dir = opendir(paths->proc);
    int r = -ENOENT, found;
    struct dirent *e;

    memset(ret, 0, sizeof(*ret));
    if (!dir)
        return -errno;
    while ((e = readdir(dir))) {
        struct kubelet_choice one = {0};
        char path[300], text[8192];
        const char *wrong;
        unsigned uid;

        if (!isdigit((unsigned char)*e->d_name))
            continue;
        one.pid = (pid_t)strtol(e->d_name, NULL, 10);
        snprintf(path, sizeof(path), "%s/comm", e->d_name);
        if (read_at(dirfd(dir), path, text, sizeof(text)) <= 0 || !is_kubelet(text))
            continue;
        snprintf(path, sizeof(path), "%s/cgroup", e->d_name);
        if (read_at(dirfd(dir), path, text, sizeof(text)) <= 0 || netns_cgroup_is_of_pod(text) ||
            !in_own_netns(dirfd(dir), e->d_name))
            continue;
        wrong = what_is_wrong(paths, one.pid, one.exe, &uid);
        if (wrong) {
            refuse(ret, one.pid, uid, wrong);
            continue;
        }
        one.began = began_at(paths->proc, one.pid);
        found = take_group(text, paths->mount, one.cgroup, sizeof(one.cgroup));
        if (found == 0)
            consider(ret, &one, known);
        else if (r == -ENOENT)
            r = found;
    }
    closedir(dir);
    if (!ret->pid)
        return r;
    ret->why = ret->candidates == 1                    ? "the only candidate"
               : *known && !strcmp(ret->cgroup, known) ? "in the same cgroup as before"
                                                       : "the longest-running one";
    return 0;
}

/* ---- who else is there ---- */

static pid_t parent_of(const char *proc, pid_t pid)
{
    char text[PROC_STAT_TEXT];
    const char *field;

    if (read_of(proc, pid, "stat", text, sizeof(text)) <= 0 || !(field = proc_stat_field(text, 4)))
        return 0;
    return (pid_t)strtol(field, NULL, 10);
}

static bool belongs(const struct kubelet_paths *paths, pid_t kubelet, pid_t pid, const char *comm)
{
    pid_t p = pid;

    for (int i = 0; p > 1 && i < DEPTH; i++) {
        if (p == kubelet)
            return true;
        p = parent_of(paths->proc, p);
    }
    return is_kubelet(comm) || !strncmp(comm, "containerd", 10);
}

static int look_into(const struct kubelet_paths *paths, pid_t kubelet, const char *directory, int depth,
                     char *names, size_t size)
{
    char path[1200], text[65536], comm[64];
    int count = 0;
    struct dirent *e;
    DIR *dir;

    snprintf(path, sizeof(path), "%.1100s/cgroup.procs", directory);
    (void)read_at(AT_FDCWD, path, text, sizeof(text));
    for (char *line = text, *end; *line; line = end + (*end == '\n')) {
        pid_t pid = (pid_t)strtol(line, NULL, 10);
        size_t len = strlen(names);

        end = strchrnul(line, '\n');
        /* 0: of a process id namespace that is not ours to see. */
        if (pid && (read_of(paths->proc, pid, "comm", comm, sizeof(comm)) <= 0 ||
                    belongs(paths, kubelet, pid, comm)))
            continue;
        comm[pid ? strcspn(comm, "\n") : 0] = '\0';
        snprintf(names + len, size - len, "%s%s", len ? ", " : "", *comm ? comm : "unknown");
        count++;
    }
    dir = depth ? opendir(directory) : NULL;
    while (dir && (e = readdir(dir))) {
        if (e->d_type != DT_DIR || *e->d_name == '.' ||
            snprintf(path, sizeof(path), "%s/%s", directory, e->d_name) >= (int)sizeof(path))
            continue;
        count += look_into(paths, kubelet, path, depth - 1, names, size);
    }
    if (dir)
        closedir(dir);
    return count;
}

int kubelet_other_processes(const struct kubelet_paths *paths, pid_t pid, const char *directory, char *names,
                            size_t size)
{
    names[0] = '\0';
    return look_into(paths, pid, directory, DEPTH, names, size);
}

bool kubelet_is_in(const struct kubelet_paths *paths, pid_t pid, const char *directory)
{
    char text[8192], cgroup[KUBELET_CGROUP_LEN], comm[64], exe[KUBELET_EXE_LEN];
    unsigned uid;

    return !what_is_wrong(paths, pid, exe, &uid) &&
           read_of(paths->proc, pid, "comm", comm, sizeof(comm)) > 0 && is_kubelet(comm) &&
           read_of(paths->proc, pid, "cgroup", text, sizeof(text)) > 0 &&
           take_group(text, paths->mount, cgroup, sizeof(cgroup)) == 0 && !strcmp(cgroup, directory);
}
