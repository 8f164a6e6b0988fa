/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Who is who in the proxy process.
 *
 *   struct proxy       the process: settings, mesh state, identities, control loop, workers
 *   struct pod         one pod; made by the control thread, shared read-only with the workers, counted
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
#include "proxy/pods/agent_link.h"
#include "proxy/pods/pods.h"
#include "proxy/pods/zds_link.h"
#include "proxy/proxy_settings.h"
#include "proxy/state/state.h"
#include "proxy/telemetry/telemetry.h"
#include "proxy/tls/crl.h"
#include "proxy/xds/xds_client.h"

struct worker;
struct worker_pod;
struct tunnel;

struct proxy {
    struct proxy_settings settings;
    struct loop *loop; /* control thread */
    struct state *state;
    struct identity_store *identities;
    struct crl_watch *revoked; /* NULL: no lists are configured */
    struct xds_client *xds;
    struct agent_link *agent; /* NULL: a CNI agent names the pods */
    struct zds_link *zds;     /* NULL: bruma-agent does */
    struct admin *admin;
    struct worker **workers;
    unsigned workers_len;
    struct list pods; /* struct pod; control thread only */
    unsigned long pods_started, pods_stopped;
    int own_netns_fd;
    int exempt_map_fd, deliveries_map_fd; /* -1 until the agent gave them; atomic */
    bool draining;
    bool cut;              /* the deadline has come, and all connections were ended */
    bool ending;           /* draining, and not because of another proxy: for good */
    uint64_t linger_until; /* loop time; draining, and still a holder of listeners */
    int exit_status;
    struct loop_timer drain_timer, drain_check;
    struct wall_clock wall;
    struct budget memory; /* of what is buffered for those who do not read */
    atomic_bool memory_freed;
    struct loop_timer memory_look; /* control thread, as all below */
    size_t memory_kept;            /* by the allocator, after it was last asked to give back */
    atomic_ulong memory_trims;     /* read by scrapes */
};

/* Live plaintext connections of a pod by (client address, client port, pod port). Deliveries to the app with
 * the client's address must not use such a port: the packets would belong to the live connection. */
struct tuple_set;

struct pod {
    atomic_int references;
    struct list node; /* in proxy.pods */
    struct proxy *proxy;
    char *uid, *name, *namespace, *service_account, *trust_domain;
    uint64_t cookie;
    uint32_t generation;
    struct addr addresses[BRUMA_POD_ADDRESSES];
    int addresses_len;
    int fds[BRUMA_POD_FD_COUNT];
    /* Captured by netfilter rules that redirect to the pod's listeners, instead of by our programs: the
     * original destination is asked of conntrack, and the rules exempt what has packet_mark. */
    bool redirected;
    uint32_t packet_mark; /* of our sockets in the pod; 0: none */
    /* NULL while nobody knows the pod's trust domain. The control thread replaces it (RCU), and puts it after
     * the last worker let go. */
    struct identity *identity;
    /* Its workload's place while the mesh does not know the pod; replaced in the same way. */
    const struct workload *stand_in;
    struct tuple_set *tuples;
    struct budget memory;        /* its part of the process's */
    struct tuple_set *peers;     /* connections by the client's address alone */
    atomic_int descriptors;      /* of all its connections, on all workers */
    atomic_int connections;      /* on all workers */
    atomic_int workers_attached; /* workers that have a view of it */
    bool draining, deleted;      /* control thread */
};

void pod_ref(struct pod *pod);
void pod_unref(struct pod *pod); /* any thread */
/* Control thread: the pod has no connection just now; if it is draining, that is the end of it. */
void pods_idle(struct pod *pod);
/* Any thread: a connection waits for the pod's certificate. */
void pods_certificate_wanted(struct pod *pod);
/* Any thread: one of the pod's listeners was destroyed; the agent opens a new one. */
void pods_listener_closed(struct pod *pod);
/* Of a redirected pod no address is known: it is not told. */
bool pod_has_address(const struct pod *pod, const struct addr *addr);

#endif
