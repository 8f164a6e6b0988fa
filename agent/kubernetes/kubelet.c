/* SPDX-License-Identifier: Apache-2.0 */
#define LOG_SCOPE "probes"
#include "agent/kubernetes/kubelet.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <mntent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "agent/netns/netns_find.h"
#include "lib/cleanup.h"
#include "lib/file.h"
#include "lib/log.h"
#include "lib/proc.h"
#include "lib/reasons.h"

#define SOON    100 /* milliseconds between looks after it has ended: its successor's probes come at once */
#define SOON_NO 100 /* so many of them, then with the timer of verification */
#define DEPTH   8   /* of groups below the kubelet's, and of processes between it and one that it has begun */

struct kubelet {
    struct agent *agent;
    struct kubelet_paths paths;
    char mount[512], cgroup[KUBELET_CGROUP_LEN];
    struct kubelet_choice choice;
    bool searched;  /* by its name; else the setting has named the directory */
    bool following; /* steering is to be told */
    pid_t pid;      /* 0: none is known */
    struct loop_watch ended;
    struct loop_timer timer;
    unsigned soon; /* looks left that come soon */
    unsigned found;

    enum bruma_reason reason;
    char error[256];
};

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

/* ---- following ---- */

static int cgroup2_mount(char *buf, size_t size)
{
    FILE *mounts = setmntent("/proc/self/mounts", "re");
    struct mntent *m;
    int r = -ENOENT;

    if (!mounts)
        return -errno;
    while (r == -ENOENT && (m = getmntent(mounts))) {
        if (!strcmp(m->mnt_type, "cgroup2"))
            r = snprintf(buf, size, "%s", m->mnt_dir) >= (int)size ? -ENAMETOOLONG : 0;
    }
    endmntent(mounts);
    return r;
}

static void report_failure(struct kubelet *k, enum bruma_reason reason, const char *text)
{
    if (reason && (reason != k->reason || strcmp(text, k->error) != 0))
        log_warn("%s\treason=%s error=\"%s\"", reason_what(reason), reason_name(reason), text);
    k->reason = reason;
    snprintf(k->error, sizeof(k->error), "%s", text);
}

static void lose(struct kubelet *k)
{
    k->pid = 0;
    if (k->ended.fd < 0)
        return;
    loop_watch_remove(k->agent->loop, &k->ended);
    close(k->ended.fd);
    k->ended.fd = -1;
}

static void on_ended(struct loop_watch *watch, uint32_t events)
{
    struct kubelet *k = container_of(watch, struct kubelet, ended);
    int fd = watch->fd;

    (void)events;
    loop_watch_remove(k->agent->loop, watch);
    close(fd);
    watch->fd = -1;
    k->pid = 0;
    k->soon = SOON_NO;
    loop_timer_set(k->agent->loop, &k->timer, SOON);
}

static void watch(struct kubelet *k)
{
    int fd = (int)syscall(SYS_pidfd_open, k->pid, 0);

    if (fd < 0)
        return; /* the timer looks whether it is there */
    if (loop_watch_add(k->agent->loop, &k->ended, fd, EPOLLIN, on_ended) < 0) {
        close(fd);
        k->ended.fd = -1;
    }
}

static void look_for_other_processes(struct kubelet *k)
{
    char names[150], text[256];
    int n = kubelet_other_processes(&k->paths, k->pid, k->cgroup, names, sizeof(names));

    if (!n) {
        report_failure(k, *k->choice.refused ? BRUMA_REASON_KUBELET_REFUSED : BRUMA_REASON_NONE,
                       k->choice.refused);
        return;
    }
    snprintf(text, sizeof(text), "%.80s has %d more: %s", k->cgroup, n, names);
    report_failure(k, BRUMA_REASON_KUBELET_CGROUP_SHARED, text);
}

/* It is where it was: the process could have been moved, and its number used again. */
static bool is_there(const struct kubelet *k)
{
    char text[8192], cgroup[sizeof(k->cgroup)], comm[64], exe[KUBELET_EXE_LEN];
    unsigned uid;

    return k->pid && !what_is_wrong(&k->paths, k->pid, exe, &uid) &&
           read_of(k->paths.proc, k->pid, "comm", comm, sizeof(comm)) > 0 && is_kubelet(comm) &&
           read_of(k->paths.proc, k->pid, "cgroup", text, sizeof(text)) > 0 &&
           take_group(text, k->paths.mount, cgroup, sizeof(cgroup)) == 0 && !strcmp(cgroup, k->cgroup);
}

static void update_steering(struct kubelet *k)
{
    struct steer_error error = {0};

    if (k->following && steer_probe_cgroup(k->agent->steer, k->cgroup, &error) < 0)
        log_error("the hook of probes cannot be attached\treason=%s error=\"%s\"", reason_name(error.reason),
                  error.text);
}

static void search(struct kubelet *k)
{
    char known[sizeof(k->cgroup)], text[sizeof(k->error)];
    int r = *k->mount ? 0 : cgroup2_mount(k->mount, sizeof(k->mount));

    lose(k);
    if (r == 0)
        r = kubelet_find(&k->paths, strcpy(known, k->cgroup), &k->choice);
    if (r < 0) {
        snprintf(text, sizeof(text), "%s%s%.150s",
                 r == -EXDEV    ? "the kubelet has no cgroup of its own that can be seen from here"
                 : r == -ENOENT ? "no kubelet runs on the node's network"
                                : strerror(-r),
                 *k->choice.refused ? "; not taken for it: " : "", k->choice.refused);
        report_failure(k, BRUMA_REASON_KUBELET_NOT_FOUND, text);
        return; /* the hook stays where it was: that cgroup may come back */
    }
    k->found++;
    k->pid = k->choice.pid;
    strcpy(k->cgroup, k->choice.cgroup);
    log_info("the kubelet's probes go straight to applications\tpid=%d program=%s cgroup=%s why=\"%s\"",
             k->pid, k->choice.exe, k->cgroup, k->choice.why);
    watch(k);
    update_steering(k);
}

static void look(struct kubelet *k)
{
    if (!is_there(k))
        search(k);
    if (k->pid)
        look_for_other_processes(k);
}

static void on_timer(struct loop_timer *timer)
{
    struct kubelet *k = container_of(timer, struct kubelet, timer);
    bool soon;

    look(k);
    soon = !k->pid && k->soon;
    if (soon)
        k->soon--;
    loop_timer_set(k->agent->loop, timer, soon ? SOON : k->agent->settings->verify_interval);
}

int kubelet_open(struct agent *agent, struct kubelet **ret)
{
    const char *setting = agent->settings->probe_cgroup;
    struct kubelet *k;

    if (!setting)
        return 0;
    k = calloc(1, sizeof(*k));
    if (!k)
        return -ENOMEM;
    k->agent = agent;
    k->ended.fd = -1;
    k->paths = (struct kubelet_paths){.proc = agent->settings->proc, .mount = k->mount};
    loop_timer_init(&k->timer, on_timer);
    k->searched = !strcmp(setting, KUBELET_AUTO);
    if (k->searched)
        look(k);
    else
        snprintf(k->cgroup, sizeof(k->cgroup), "%s", setting);
    *ret = k;
    return 0;
}

const char *kubelet_cgroup(const struct kubelet *k)
{
    return k ? k->cgroup : "";
}

void kubelet_follow(struct kubelet *k)
{
    if (!k || !k->searched)
        return;
    k->following = true;
    loop_timer_set(k->agent->loop, &k->timer, k->agent->settings->verify_interval);
}

void kubelet_close(struct kubelet **kubelet)
{
    if (!*kubelet)
        return;
    lose(*kubelet);
    loop_timer_cancel(&(*kubelet)->timer);
    free(*kubelet);
    *kubelet = NULL;
}

enum bruma_reason kubelet_failure(const struct kubelet *k, const char **ret_text)
{
    if (!k || !k->reason)
        return BRUMA_REASON_NONE;
    *ret_text = k->error;
    return k->reason;
}

void kubelet_report(const struct kubelet *k, cJSON *object)
{
    if (!k)
        return;
    cJSON_AddStringToObject(object, "probeCgroup", k->cgroup);
    if (k->searched)
        cJSON_AddNumberToObject(object, "kubeletPid", k->pid);
}

void kubelet_explain(const struct kubelet *k, char *buf, size_t size)
{
    if (!k->searched)
        snprintf(buf, size, "%s, which --probe-cgroup names", k->cgroup);
    else if (k->pid)
        snprintf(buf, size, "pid %d (%s), %s: runs as root, and only root may write its program; %s",
                 (int)k->pid, k->choice.exe, k->cgroup, k->choice.why);
    else
        snprintf(buf, size, "none");
}
