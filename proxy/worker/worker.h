/* SPDX-License-Identifier: Apache-2.0 */
/* What a worker thread has, and what it knows of each pod (the thread itself: connection/worker_thread.h).
 * Fields and functions are the worker's own thread's unless a comment says otherwise. */
#ifndef PROXY_WORKER_WORKER_H
#define PROXY_WORKER_WORKER_H

#include "lib/log_rest.h"
#include "proxy/pod/pod.h"
#include "proxy/proxy.h"
#include "proxy/route/ejected.h"
#include "proxy/state/reader.h"
#include "proxy/tls/tls.h"
#include "proxy/worker/delivery_ports.h"
#include "proxy/worker/pipes.h"

#define WORKER_BUFFER    (512 * 1024) /* bytes */
#define WORKER_POOL_BITS 6
#define WORKER_FOREIGN   64 /* a power of two */

struct crl_set;
struct dns_pod;
struct mnl_socket;

struct worker {
    struct proxy *proxy;
    const struct proxy_settings *settings;
    const struct state *state; /* the mesh, read by RCU */
    struct reader reader;      /* which the thread's loop is of it */
    unsigned index;
    pthread_t thread;
    struct loop *loop; /* loop_post() from any thread */
    struct telemetry *telemetry;
    uint64_t random;
    struct ejected ejected;     /* endpoints of services */
    struct ejected leaving;     /* the same by address alone, which have said GOAWAY */
    struct pod *in_pod;         /* whose netns the thread is in; referenced; NULL: the proxy's own */
    struct mnl_socket *netlink; /* of in_pod's netns, for route_device(); NULL until it is needed */
    struct list pods;           /* struct worker_pod */
    struct list handshakes;     /* struct handshake */
    unsigned handshakes_len;
    struct list flush;   /* tunnels with something to send at the end of the turn */
    unsigned inside_len; /* tunnels inside of tunnels */
    struct list
        inside; /* struct inner: tunnels inside of tunnels, with something to do at the end of the turn */
    struct list touched; /* streams with bytes for their application, gathered in this turn */
    struct tls_buffers tls;
    struct shared_buffer
        plain_in;       /* decrypted bytes of the tunnel that is being read, or what a relay copies */
    struct pipes pipes; /* of relays that pass bulk */
    struct shared_buffer plain_out; /* frames of the tunnel that is being flushed */
    enum budget_level level;        /* of the process, as the worker last saw it */
    struct list memory_news;        /* worker_pod.memory.node: accounts have changed */
    bool memory_notified;           /* another worker saw the level change */
    uint64_t memory_said;           /* loop_now(); 0: never */
    struct log_rest accept_line;    /* of all listeners */
    bool serving;                   /* the mesh state is known: accept */
    bool draining;                  /* no new connections */
    unsigned long questions;        /* to DNS servers, that are on their way */
    struct list turn_hooks;         /* struct turn_hook */
    atomic_int connections;         /* read by the control thread */
    atomic_ulong beat;              /* the last question whether it turns; the same */
};

/* Embedded in its owner, in worker.turn_hooks. */
struct turn_hook {
    struct list node;
    /* Called on the worker's thread at the end of each turn, when all tunnels have been flushed; hook may be
     * removed by it. */
    void (*fn)(struct turn_hook *hook);
};

/* Which listener of the pod. */
enum acceptor_kind { ACCEPT_OUTBOUND, ACCEPT_PLAINTEXT, ACCEPT_HBONE, ACCEPT_DNS, ACCEPT_SOCKS };

struct acceptor {
    struct loop_watch watch;
    struct loop_timer retry; /* out of descriptors: accept again a little later */
    struct worker_pod *pod;
    enum acceptor_kind kind;
    int fd;        /* own duplicate of the pod's listener; -1: none */
    uint16_t port; /* that it is bound to in the pod */
};

/* The kernel has found no port that nothing has, for connections from this address; loop_now(). */
struct ports_scarce {
    struct addr address;
    uint64_t until;
};

struct worker_pod {
    struct list node; /* in worker.pods */
    struct worker *worker;
    struct pod *pod; /* referenced */
    struct acceptor acceptors[BRUMA_LISTENER_COUNT];
    struct list connections; /* struct connection */
    struct list lingering;   /* struct lingering_socket: sockets that take their last bytes */
    struct list servers;     /* tunnels that peers opened */
    struct list clients[1 << WORKER_POOL_BITS]; /* tunnels that we opened, by destination: the pool */
    struct list handshakes;                     /* struct handshake */
    unsigned handshakes_len;
    struct list waiting;                 /* struct waiter */
    const struct workload *local;        /* referenced; the pod's own workload, or NULL while unknown */
    bool local_stale;                    /* the mesh state has changed since local was looked up */
    struct delivery_ports ports;         /* of deliveries to the application that are over */
    struct ports_scarce ports_scarce[2]; /* of the pod's own address, and of a client */
    uint64_t
        hidden_logged_until; /* loop_now(): that no port is left under a client's address is in the log */
    struct loop_timer policy_timer; /* live connections whose policies are missing are looked at again */
    /* Destinations that were none of the pod's own addresses when the kernel was asked last, by a hash. */
    struct {
        struct addr addr;
        uint64_t until; /* loop time */
    } foreign[WORKER_FOREIGN];
    struct dns_pod *dns;          /* NULL: none was needed yet */
    struct acceptor dns_acceptor; /* with dns: of questions by TCP, where they have a listener of their own */
    struct acceptor socks_acceptors[2]; /* of SOCKS, on IPv4's loopback and IPv6's */
    struct list socks;                  /* struct socks: they have not said where to, or wait for it */
    struct budget_share memory;
    enum budget_level level,
        pod_level;            /* what it lives under: the worse of the pod's own and the process's */
    struct loop_timer ending; /* armed: the pod was told to end, and new tunnels of peers are told then */
    bool keeps_undecided;     /* another process has not taken one: undecided.h */
    bool draining, deleted;
};

/* Worker's own thread: a connection of the pod began or ended. */
void worker_connection_begin(struct worker_pod *wp);
/* The last one of a draining pod on all workers makes it idle (pod_is_idle()). */
void worker_connection_end(struct worker_pod *wp);

/* Somebody who waits for something of the pod: its workload, its certificate, its policies. Checked again
 * after each change, and with timed_out when the time is over. */
struct waiter {
    struct list node; /* in worker_pod.waiting */
    struct loop_timer timer;
    struct worker_pod *pod;
    uint64_t until; /* loop_now() */
    /* Called on the worker's own thread, when something has changed or the time is over. True: done with
     * waiting (the waiter may be gone). False: it waits on; it has given itself a new time if the old one is
     * over. */
    bool (*check)(struct waiter *waiter, bool timed_out);
};

/* It waits for nothing yet. check: called as in struct waiter. */
void waiter_init(struct waiter *waiter, struct worker_pod *wp, bool (*check)(struct waiter *, bool));
/* So long from now on; while it waits, for check alone to call. */
void waiter_set_time(struct waiter *waiter, uint64_t milliseconds);
/* It waits from here on. Who may not need to has called check before. */
void worker_wait(struct waiter *waiter);
/* May be repeated. */
void worker_wait_cancel(struct waiter *waiter);

/* Of worker_thread.c. Once, for a pod that is new to the worker. */
void worker_pod_init_waiting(struct worker_pod *wp);
/* The mesh state or the certificate has changed: who waits is asked again. */
void worker_check_waiting(struct worker_pod *wp);
/* The pod goes: the time of all who wait is over. */
void worker_end_waiting(struct worker_pod *wp);
/* The mesh state has changed: live connections from outside are authorized again, and aborted if denied. */
void worker_check_policies(struct worker_pod *wp);

/* The pod's workload, or NULL while it is unknown; valid while the pod is. */
const struct workload *worker_pod_workload(struct worker_pod *wp);
/* The same for connections of the pod itself: while the mesh does not know it, a workload that has what the
 * agent says, and no more; valid for this turn. Never NULL. */
const struct workload *worker_pod_source(struct worker_pod *wp);
/* The certificate of just that workload's identity, with a reference for the caller; NULL: none (yet). */
struct tls_context *worker_pod_context(struct worker_pod *wp);
/* True if there is none, and it is known that waiting is in vain. text: what the CA has said last, or "". */
bool worker_pod_identity_failed(struct worker_pod *wp, char *text, size_t size);

/* Whether the port is one that the pod's listeners are bound to. They are reached by the pod's program alone:
 * a connection that is delivered there would come straight back, and be delivered again. */
bool worker_pod_listens(const struct worker_pod *wp, uint16_t port);

/* A number of 64 bits, good enough to choose by. */
uint64_t worker_random(struct worker *worker);

#endif
