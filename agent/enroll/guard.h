/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The guard: no pod that belongs to the mesh uses the network before it is captured. A pod can start without
 * the plugin: the node boots and the main CNI plugin writes its configuration anew before the agent runs, or
 * the entry was taken out a moment ago. So the guard closes when the agent starts and whenever it found the
 * entry missing, and keeps TCP connections from and to pods that nobody has decided about, until every pod
 * that runs is captured or known to belong outside.
 *
 * Only pods below the pods' cgroup, and never the node's own network namespace. In a cluster only (source.h).
 */
#ifndef AGENT_ENROLL_GUARD_H
#define AGENT_ENROLL_GUARD_H

#include <cjson/cJSON.h>

#include "agent/agent.h"

struct guard;

/* To be asked before steering is opened: whether this start is one at which the guard closes. A node that has
 * just booted, or had Bruma before it booted, or whose pods an earlier agent has decided about; not one on
 * which Bruma is being installed while its pods run: those are as they were, and nobody shall lose a
 * connection. installs: this agent puts the plugin there, and not somebody before it. */
bool guard_is_due(const struct agent_settings *settings, bool installs);

/* Called on the loop before the guard opens: true if the runtime would call the plugin for a new pod. */
typedef bool (*guard_in_place_fn)(const struct agent *agent);

/* Closes the guard, if the settings want one and due says so. Trouble is logged, reported and tried again,
 * and is no error. in_place is asked before it opens. 0, and *ret is not written where the settings want
 * none; or -ENOMEM. */
int guard_start(struct agent *agent, bool due, guard_in_place_fn in_place, struct guard **ret);
/* Frees; what is closed stays closed until its limit. */
void guard_stop(struct guard **guard);
/* For a service that runs before the kubelet: closes and leaves it to the agent to open. 0, -ENOENT where
 * there is no cgroup of pods, -EIO where it could not be closed, or -errno; logged. */
int guard_close_before_boot(struct agent *agent);
/* The entry was missing: a pod may have started without the plugin. */
void guard_close(struct guard *guard, const char *why);

/* There is one; then every pod of the node is to be decided about, also those outside the mesh. */
bool guard_wanted(const struct agent *agent);
/* Not in the mesh. */
void guard_pass(const struct agent *agent, uint64_t cookie, const char *namespace, const char *name);
/* Captured, or gone. */
void guard_forget(const struct agent *agent, uint64_t cookie);

/* For status, metrics and doctor. */
void guard_report(const struct agent *agent, cJSON *object);
/* Whether it is closed now; NULL: there is none, and false. */
bool guard_is_closed(const struct guard *guard);
/* How often it opened at its limit, or had opened at it before this agent came. */
unsigned guard_gave_up(const struct guard *guard);
/* The reason why it cannot be closed, or that it gave up, and a text that lives as long as the guard;
 * NONE, and *ret_text is not written, if there is nothing of the kind. */
enum bruma_reason guard_failure(const struct guard *guard, const char **ret_text);

/* The directory that the kubelet makes for pods below root: "kubepods", "kubepods.slice" and the like, at
 * most three levels deep. -ENOENT if there is none yet. */
int guard_find_cgroup(const char *root, char *buf, size_t size);

/* Network namespaces of processes below the cgroup, each once. Allocates *ret; the caller frees it. Returns
 * how many, or -errno: also if there is a process that cannot be looked at, for then its namespace may be
 * missing. Processes that end meanwhile are left out. */
int guard_namespaces(const char *cgroup, const char *proc, uint64_t **ret);

#endif
