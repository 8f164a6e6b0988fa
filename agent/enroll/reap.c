/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/enroll/reap.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "agent/enroll/enroll.h"
#include "agent/enroll/member.h"

#define LOOK          2000 /* milliseconds between looks for processes of a namespace whose name is not there */
#define FIRST_PROCESS 60000 /* milliseconds that a sandbox may take to get one */
#define MOUNTS_TRUSTED \
    10000          /* milliseconds in which a change of the mounts is waited for instead of looking */
#define A_TURN 256 /* entries of /proc looked at in one turn */

static void end_search(struct agent *agent)
{
    if (agent->search)
        closedir(agent->search);
    agent->search = NULL;
    loop_timer_cancel(&agent->searching);
}

static bool lives_in(const struct pod *pod, const struct stat *st)
{
    struct presence *seen = presence_of(pod);
    return seen->searched && !seen->inhabited && pod->netns_inode == st->st_ino;
}

static void look_at(struct agent *agent, const char *process)
{
    struct stat st;
    struct pod *pod;
    char path[300];

    snprintf(path, sizeof(path), "%s/ns/net", process);
    if (fstatat(dirfd(agent->search), path, &st, 0) < 0)
        return; /* it has ended meanwhile */
    list_for_each (pod, &agent->pods.list, node)
        presence_of(pod)->inhabited |= lives_in(pod, &st);
}

/* All processes were looked at. */
static void remove_gone(struct agent *agent)
{
    uint64_t now = loop_now(agent->loop);
    struct pod *pod;

    list_for_each (pod, &agent->pods.list, node) {
        if (!presence_of(pod)->searched)
            continue;
        presence_of(pod)->searched = false;
        /* It must stay captured. And a pod's first process comes a while after its sandbox. */
        if (presence_of(pod)->inhabited || (pod->netns_unseen && now - pod->added < FIRST_PROCESS)) {
            presence_of(pod)->missing = 0;
            presence_of(pod)->look_at = now + LOOK;
        } else if (presence_of(pod)->missing++ > 0) {
            /* Twice in a row: a runtime may still be busy mounting the name. */
            enroll_remove(agent, pod, "its network namespace is gone");
        }
    }
}

static void on_searching(struct loop_timer *timer)
{
    struct agent *agent = container_of(timer, struct agent, searching);

    for (int i = 0; i < A_TURN; i++) {
        struct dirent *e;

        errno = 0;
        e = readdir(agent->search);
        if (!e) {
            bool whole = errno == 0;

            end_search(agent);
            if (whole)
                remove_gone(agent);
            return;
        }
        if (isdigit((unsigned char)*e->d_name))
            look_at(agent, e->d_name);
    }
    loop_timer_set(agent->loop, timer, 0);
}

/* A name of a namespace is a mount, so it cannot go without a change of the mounts, of which the kernel
 * tells. Now and then all are looked at nevertheless. */
static bool mounts_changed(struct agent *agent)
{
    struct pollfd p = {.fd = agent->mounts_fd, .events = POLLPRI};

    if (agent->mounts_fd < 0)
        agent->mounts_fd = open("/proc/self/mountinfo", O_RDONLY | O_CLOEXEC);
    if (p.fd < 0 || loop_now(agent->loop) >= agent->mounts_until)
        return true;
    return poll(&p, 1, 0) != 0;
}

/* By a process, which ends without that. */
static bool is_named_by_process(const struct agent *agent, const struct pod *pod)
{
    return !strncmp(pod->netns_path, "/proc/", 6) ||
           !strncmp(pod->netns_path, agent->settings->proc, strlen(agent->settings->proc));
}

static bool is_missing(struct agent *agent, struct pod *pod, bool changed)
{
    struct presence *seen = presence_of(pod);
    int present;

    if (!changed && seen->named && !is_named_by_process(agent, pod))
        return false;
    present = pod_netns_present(pod);
    seen->named = present > 0;
    if (present > 0)
        seen->missing = 0;
    /* Who cannot tell has not seen it go. */
    return present == 0 && loop_now(agent->loop) >= seen->look_at;
}

/* Of the namespace that is looked for. */
static void know_inode(struct pod *pod)
{
    struct stat held;

    if (pod->netns_fd >= 0 && fstat(pod->netns_fd, &held) == 0)
        pod->netns_inode = held.st_ino;
}

void reap_pods(struct agent *agent)
{
    struct pod *pod;
    bool any = false, changed;

    if (agent->search)
        return;
    changed = mounts_changed(agent);
    if (changed)
        agent->mounts_until = loop_now(agent->loop) + MOUNTS_TRUSTED;
    list_for_each (pod, &agent->pods.list, node) {
        presence_of(pod)->inhabited = false;
        presence_of(pod)->searched = is_missing(agent, pod, changed);
        if (presence_of(pod)->searched)
            know_inode(pod);
        any |= presence_of(pod)->searched;
    }
    if (!any)
        return;
    agent->search = opendir(agent->settings->proc);
    if (!agent->search)
        return; /* it cannot be told now */
    agent->searching.fn = on_searching;
    on_searching(&agent->searching);
}

void reap_stop(struct agent *agent)
{
    end_search(agent);
    if (agent->mounts_fd >= 0)
        close(agent->mounts_fd);
    agent->mounts_fd = -1;
}
