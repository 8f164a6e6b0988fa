/* SPDX-License-Identifier: Apache-2.0 */
/* The parts of the running agent, made by main.c and shared by the modules that act on pods. One thread. */
#ifndef AGENT_AGENT_H
#define AGENT_AGENT_H

#include <dirent.h>

#include "agent/agent_settings.h"
#include "agent/enroll/decisions.h"
#include "agent/enroll/enrollment.h"
#include "agent/enroll/proxies.h"
#include "agent/enroll/store.h"
#include "agent/pod/pods.h"
#include "agent/proxies/proxy_cgroups.h"
#include "agent/steer/node.h"
#include "agent/steer/steer.h"
#include "lib/loop.h"

struct install;
struct server;
struct source;
struct metrics;
struct guard;
struct kubelet;

struct agent {
    const struct agent_settings *settings;
    struct loop *loop;
    struct steer *steer;
    struct source *source;   /* see source.h */
    struct install *install; /* NULL: nothing is installed */
    struct metrics *metrics; /* NULL: no ports for it */
    struct guard *guard;     /* NULL: none */
    struct kubelet *kubelet; /* NULL: probes are connections like others */
    struct proxies *proxies;
    struct proxy_cgroups proxy_cgroups;
    struct server *server;
    struct store store;
    struct pods pods;
    struct decisions decisions; /* of the mesh file; another source keeps its own */

    uint64_t own_cookie;  /* of the network namespace the agent lives in */
    uint64_t adopt_until; /* loop time until which listeners of before the start may still be offered */
    int64_t started_at;   /* CLOCK_REALTIME seconds */
    struct loop_timer tick, verify, forwards;
    uint64_t verify_rounds; /* in which the capture of each pod was looked at, since the start */
    /* Called on the loop: verifies a pod of whose namespace something was heard; watchdog_start() sets it. */
    void (*verify_pod)(struct agent *agent, struct pod *pod);
    DIR *search; /* /proc, while processes are looked for; see reap.c */
    struct loop_timer searching;
    int mounts_fd;         /* /proc/self/mountinfo; -1: not open. See reap.c */
    uint64_t mounts_until; /* loop time until which its word is enough */

    uint64_t plugin_successes, plugin_errors; /* answers to the CNI plugin */
    uint64_t captured_late;                   /* pods of the mesh that were found running and not captured */
    uint32_t repairs[BRUMA_REASON_COUNT];
    enum steer_node_refusal node_refusal; /* of the whole node; NONE: each pod has its own */
    enum bruma_reason cgroup_reason;      /* NONE while the connect hooks are attached */
    char cgroup_error[256];
};

#endif
