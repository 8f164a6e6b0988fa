/* SPDX-License-Identifier: Apache-2.0 */
/* What a pod is to every part of the proxy. pods/ makes them, on the control thread; workers share them and
 * read only. */
#ifndef PROXY_POD_POD_H
#define PROXY_POD_POD_H

#include "bruma/direct.h"
#include "proxy/pod/dns_servers.h"
#include "proxy/proxy.h"

struct pod;

/* What is told of a pod, on the control thread. Given by who makes it. */
struct pod_events {
    /* Called when it has no connection just now; if it is draining, that is the end of it. */
    void (*idle)(struct pod *pod);
    /* Called when one of its listeners was destroyed; the agent opens a new one. Not told once it is
     * deleted. */
    void (*listener_closed)(struct pod *pod);
};

/* Live plaintext connections of a pod by (client address, client port, pod port). Deliveries to the app with
 * the client's address must not use such a port: the packets would belong to the live connection. */
struct live_connections;

/* What the kernel is told of plaintext from outside. Control thread. */
struct pod_inbound {
    uint32_t ways; /* BRUMA_DIRECT_PASS, BRUMA_DIRECT_REFUSE, BRUMA_DIRECT_BYPASS or none */
    enum bruma_long_way why;
    uint32_t changes; /* of ways */
    bool answered;    /* ways and why have been found out */
    const struct workload
        *workload; /* that they are about, or the last that was known; referenced, or NULL */
};

struct pod {
    atomic_int references;
    struct list node; /* in proxy.pods */
    struct proxy *proxy;
    const struct pod_events *events;
    char *uid, *name, *namespace, *service_account, *trust_domain;
    uint64_t cookie;
    uint32_t generation;
    struct addr addresses[BRUMA_POD_ADDRESSES];
    int addresses_len;
    int fds[BRUMA_POD_FD_COUNT];
    int socks_fds[2]; /* IPv4 and IPv6; -1: none. Control thread */
    int dns_fds[2];   /* UDP, and TCP of a redirected pod; -1: none. Control thread */
    /* Captured by netfilter rules that redirect to the pod's listeners, instead of by our programs: the
     * original destination is asked of conntrack, and the rules exempt what has packet_mark. */
    bool redirected;
    uint32_t packet_mark; /* of our sockets in the pod; 0: none */
    bool own;             /* its network namespace is the process's */
    bool hides_clients;   /* deliveries come from the pod's own address, whatever original-source says */
    /* NULL while nobody knows the pod's trust domain. The control thread replaces it (RCU), and puts it after
     * the last worker let go. */
    struct identity *identity;
    /* Its workload's place while the mesh does not know the pod; replaced in the same way. */
    const struct workload *placeholder;
    struct live_connections *live_connections;
    struct budget memory;           /* its part of the process's */
    struct live_connections *peers; /* connections by the client's address alone */
    atomic_int descriptors;         /* of all its connections, on all workers */
    atomic_int connections;         /* on all workers */
    atomic_int questions;           /* to DNS servers, that are on their way; on all workers */
    atomic_int socks_names;         /* of SOCKS clients, that are being resolved; on all workers */
    struct dns_servers dns_servers; /* that its queries went on to */
    atomic_int workers_attached;    /* workers that have a view of it */
    atomic_int outbound_policy;     /* enum outbound_policy, never UNSAID; the control thread writes it */
    atomic_int node_verdicts;       /* of which it is the source (proxy/verdicts), about */
    int node_verdicts_seen;         /* as they are counted; control thread */
    uint64_t node_inputs;           /* what verdicts depend on, of which node_judge has told; the same */
    atomic_int same_node;           /* enum same_node, KERNEL: no wish; the control thread writes it */
    enum direct_switch direct_outside, direct_inbound; /* as the agent says; control thread */
    bool bypass_inbound;                               /* the same */
    struct pod_inbound inbound;
    bool draining, deleted, ending; /* control thread */
    struct bruma_direct_pod direct; /* as written last into the map; control thread */
    bool direct_written;            /* and it is there; the same */
    bool registry_only; /* as its connections to outside the mesh were last dealt with; the same */
};

/* Any thread. */
void pod_ref(struct pod *pod);
/* Any thread; the last one has the control thread free it. */
void pod_unref(struct pod *pod);
/* Control thread: frees one that is not whole, or that nobody refers to. */
void pod_free(void *pod);
/* Any thread: its events, posted to the control thread. */
void pod_is_idle(struct pod *pod);
/* The same: one of its listeners was destroyed. */
void pod_listener_closed(struct pod *pod);
/* Any thread: a connection waits for the pod's certificate. */
void pod_certificate_wanted(struct pod *pod);
/* Of a redirected pod no address is known: it is not told. */
bool pod_has_address(const struct pod *pod, const struct addr *addr);
/* True if they are two, and an address is of both. */
bool pod_shares_address(const struct pod *pod, const struct pod *other);

#endif
