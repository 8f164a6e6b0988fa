/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Who is who in the proxy process.
 *
 *   struct proxy       the process: settings, mesh state, identities, control loop, workers
 *   struct pod         one pod (pod/pod.h); made by the control thread, shared read-only with the workers
 *   struct worker      one thread; a connection lives on one worker from accept to close
 *   struct worker_pod  a worker's view of a pod: its acceptors, connections and tunnels
 */
#ifndef PROXY_PROXY_H
#define PROXY_PROXY_H

#include <pthread.h>
#include <stdatomic.h>

#include "lib/loop.h"
#include "lib/wall.h"
#include "proxy/admin/admin.h"
#include "proxy/identity/identity.h"
#include "proxy/memory/budget.h"
#include "proxy/pods/agent_client.h"
#include "proxy/pods/own_pod.h"
#include "proxy/pods/pods.h"
#include "proxy/pods/zds_client.h"
#include "proxy/proxy_settings.h"
#include "proxy/state/state.h"
#include "proxy/telemetry/telemetry.h"
#include "proxy/tls/crl.h"
#include "proxy/tls/resumption.h"
#include "proxy/xds/xds_client.h"

struct direct;
struct dump_maker;
struct flows;
struct handover;
struct on_demand;
struct otlp;
struct rendezvous;
struct resolver;
struct worker;
struct worker_pod;
struct node_judge;
struct node_verdicts;
struct tunnel;

struct proxy {
    struct proxy_settings settings;
    struct loop *loop; /* control thread */
    struct state *state;
    struct identity_store *identities;
    struct resolver *resolver;        /* of hostnames of workloads */
    struct crl_watch *revoked;        /* NULL: no lists are configured */
    struct tls_resumption resumption; /* of sessions with other proxies */
    struct on_demand *on_demand;      /* NULL: the whole mesh is subscribed to */
    struct direct *direct;            /* what the kernel may let pass without the proxy */
    struct xds_client *xds;
    struct agent_client *agent;    /* NULL: a CNI agent names the pods */
    struct zds_client *zds;        /* NULL: bruma-agent does */
    struct own_pod *own;           /* NULL: the process's own namespace is no pod's */
    struct flows *flows;           /* reads what is told of direct connections; NULL: no agent tells */
    struct handover *handover;     /* live connections from the proxy before, and to the next one */
    struct rendezvous *rendezvous; /* where the two meet; NULL: an agent brings them together, or nobody */
    struct admin *admin;
    struct dump_maker *dump_maker; /* the dump that is being made, or NULL */
    struct otlp *otlp;             /* exports telemetry; NULL: it does not */
    struct worker **workers;
    unsigned workers_len;
    /* The process is to end with an error: a thread cannot go on. On the control thread. NULL: nobody
     * is told. */
    void (*fail)(struct proxy *proxy);
    struct list pods; /* struct pod; control thread only */
    const struct pods_events *pods_events;
    unsigned long pods_started, pods_stopped;
    int own_netns_fd;
    struct node_verdicts *node_verdicts; /* what the kernel may carry between two pods */
    struct node_judge *node_judge;       /* and whether it still may; control thread */
    atomic_int same_node; /* enum same_node of the agent's setting; KERNEL: it has said nothing */
    int exempt_map_fd, deliveries_map_fd; /* -1 until the agent gave them; atomic */
    bool serves;                          /* the mesh is known */
    bool draining;
    bool aborted;          /* the deadline has come, and all connections were ended */
    bool ending;           /* draining, and not because of another proxy: for good */
    uint64_t end_due;      /* loop_now(), if it is ending: the deadline of that */
    uint64_t linger_until; /* loop_now(); draining, and still a holder of listeners */
    int exit_status;
    struct loop_timer drain_timer, drain_check;
    struct loop_timer metrics_timer; /* of metrics_export.h */
    struct wall_clock wall;
    struct budget memory; /* of what is buffered for those who do not read */
    atomic_bool memory_freed;
    struct loop_timer memory_look; /* control thread, as all below */
    size_t memory_kept;            /* by the allocator, after it was last asked to give back */
    atomic_ulong memory_trims;     /* read by scrapes */
};

#endif
