/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which process of this node is the kubelet, and its cgroup, by which its probes are told from everybody
 * else's connections. It is followed: it may be restarted, in another cgroup, and may come later than the
 * agent.
 */
#ifndef AGENT_KUBELET_H
#define AGENT_KUBELET_H

#include <cjson/cJSON.h>
#include <sys/types.h>

#include "agent.h"

#define KUBELET_AUTO "auto" /* value of the setting: found by its name */

struct kubelet;

/* Finds it and begins to follow it, if the setting says so; else there is none, or the directory that was
 * named. */
int kubelet_open(struct agent *agent, struct kubelet **ret);
/* Its directory as it is now, "" if there is none. */
const char *kubelet_cgroup(const struct kubelet *kubelet);
/* From here on changes reach steering. */
void kubelet_follow(struct kubelet *kubelet);
void kubelet_close(struct kubelet **kubelet);

/* KUBELET_NOT_FOUND, KUBELET_CGROUP_SHARED, or NONE; *ret_text in words. */
enum bruma_reason kubelet_trouble(const struct kubelet *kubelet, const char **ret_text);
void kubelet_report(const struct kubelet *kubelet, cJSON *object);

/* ---- for tests ---- */

/* Where processes and control groups are looked up. */
struct kubelet_place {
    const char *proc, *mount; /* a procfs; where the cgroup2 hierarchy is mounted */
};

/* The process: kubelet, kubelite (MicroK8s) or k3s, in the network namespace of this process, and in no pod,
 * for a pod may call its processes anything. 0, -ENOENT if none runs, or -EXDEV if it is in the root, which
 * would exempt everybody, or outside of what this process may see. */
int kubelet_find(const struct kubelet_place *place, pid_t *ret_pid, char *buf, size_t size);

/* Names of processes in the directory or below it that do not belong to the kubelet: neither it, nor begun by
 * it, nor of the container runtime that k3s brings. Returns how many; names as far as there is room. */
int kubelet_strangers(const struct kubelet_place *place, pid_t pid, const char *directory, char *names,
                      size_t size);

#endif
