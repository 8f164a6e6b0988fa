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

#endif
