/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which processes' connect() calls are not captured in pods: those of node proxies that open their own
 * sockets. They are told by their cgroup, which no process of a pod can enter. A process stays exempt until
 * it ends, also when it has closed its connection to the agent: it finishes what it carries.
 */
#ifndef AGENT_PROXIES_PROXY_CGROUPS_H
#define AGENT_PROXIES_PROXY_CGROUPS_H

#include <sys/types.h>

#include "agent/steer/steer.h"
#include "lib/loop.h"

struct proxy_cgroups {
    struct loop *loop;
    struct steer *steer;
    const char *pods_cgroup; /* where connect() is captured */
    struct list list;
};

/* Takes over what an earlier agent has written: processes that live stay exempt. */
void proxy_cgroups_open(struct proxy_cgroups *cgroups, struct loop *loop, struct steer *steer,
                        const char *pods_cgroup);
/* Stops following processes; the entries stay. */
void proxy_cgroups_close(struct proxy_cgroups *cgroups);

/* Exempts the process. 0, -EXDEV where its cgroup is not its own, or not below the one of pods, or -errno;
 * error says more. */
int proxy_cgroups_add(struct proxy_cgroups *cgroups, pid_t pid, struct steer_error *error);

/* The id of the process's cgroup: its directory must be below pods_cgroup (a cgroup2 directory) and not
 * that itself. proc: "/proc". 0, -EXDEV as above, or -errno; error says more. */
int proxy_cgroups_find(const char *proc, pid_t pid, const char *pods_cgroup, uint64_t *ret,
                       struct steer_error *error);

#endif
