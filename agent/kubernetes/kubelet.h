/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which process of this node is the kubelet, and its cgroup, by which its probes are told from everybody
 * else's connections. It is followed: it may be restarted, in another cgroup, and may come later than the
 * agent.
 */
#ifndef AGENT_KUBERNETES_KUBELET_H
#define AGENT_KUBERNETES_KUBELET_H

#include <cjson/cJSON.h>
#include <sys/types.h>

#include "agent/agent.h"

#define KUBELET_AUTO "auto" /* value of the setting: found by its name */

struct kubelet;

/* Finds it and begins to follow it, if the setting says so; else there is none, or the directory that was
 * named. 0 or -ENOMEM; *ret is not written where the setting is none, and NULL is fine for all the others. */
int kubelet_open(struct agent *agent, struct kubelet **ret);
/* Its directory as it is now, "" if there is none (never NULL): the kubelet's, until the loop goes on. */
const char *kubelet_cgroup(const struct kubelet *kubelet);
/* From here on changes reach steering. */
void kubelet_follow(struct kubelet *kubelet);
void kubelet_close(struct kubelet **kubelet);

/* KUBELET_NOT_FOUND, KUBELET_CGROUP_SHARED, KUBELET_REFUSED, or NONE, and *ret_text is not written; else
 * it is in words, the kubelet's, until the loop goes on. */
enum bruma_reason kubelet_failure(const struct kubelet *kubelet, const char **ret_text);
/* Who was chosen and why, in words. */
void kubelet_explain(const struct kubelet *kubelet, char *buf, size_t size);
/* Adds its keys to the object of `brumactl status`. */
void kubelet_report(const struct kubelet *kubelet, cJSON *object);

/* ---- for tests ---- */

/* Where processes and control groups are looked up. */
struct kubelet_paths {
    const char *proc, *mount; /* a procfs; where the cgroup2 hierarchy is mounted */
};

#define KUBELET_CGROUP_LEN 1024
#define KUBELET_EXE_LEN    256

struct kubelet_choice {
    pid_t pid; /* 0: nobody */
    uint64_t began;
    unsigned candidates; /* that fit */
    char cgroup[KUBELET_CGROUP_LEN], exe[KUBELET_EXE_LEN];
    const char *why;
    char refused[200]; /* who is called so and is not taken for it, and why; as far as there is room */
};

/* The process: kubelet, kubelite (MicroK8s) or k3s, in the network namespace of this process, and in no pod;
 * root's, with a program of that name that only root may write, for anybody may call a process anything. Of
 * several the one in the directory known ("": none is), then the longest-running one. 0, -ENOENT if none
 * runs, or -EXDEV if it is in the root, which would exempt everybody, or outside of what this process may
 * see. */
int kubelet_find(const struct kubelet_paths *paths, const char *known, struct kubelet_choice *ret);

/* Names of processes in the directory or below it that do not belong to the kubelet: neither it, nor begun by
 * it, nor of the container runtime that k3s brings. Returns how many; names as far as there is room. */
int kubelet_other_processes(const struct kubelet_paths *paths, pid_t pid, const char *directory, char *names,
                            size_t size);

#endif
