/* SPDX-License-Identifier: Apache-2.0 */
#define LOG_SCOPE "probes"
#include "agent/kubernetes/kubelet.h"

#include <errno.h>
#include <limits.h>
#include <mntent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "agent/kubernetes/kubelet_find.h"
#include "lib/cleanup.h"
#include "lib/log.h"
#include "lib/reasons.h"

#define SOON    100 /* milliseconds between looks after it has ended: its successor's probes come at once */
#define SOON_NO 100 /* so many of them, then with the timer of verification */

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

static bool is_there(const struct kubelet *k)
{
    return k->pid && kubelet_is_in(&k->paths, k->pid, k->cgroup);
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
