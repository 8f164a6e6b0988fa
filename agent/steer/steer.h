/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Steering: the BPF programs and maps of this node and of each pod, and what the pod's network namespace
 * needs beside them (rule, route, sysctls). Everything is pinned below the pin directory, so that it outlives
 * the process, and is found again by steer_open().
 *
 *   PIN_DIR/maps/{pods,pod_counters,failures,proxy_sockets,proxy_cgroups,probe_targets,probe_tuples,
 *                 deliveries,guard,sandboxes}
 *   PIN_DIR/links/{connect4,connect6,setsockopt,options4,options6,accepted,released,probes}
 *   PIN_DIR/links/guard-{connect4,connect6,inbound}    while the guard is closed
 *   PIN_DIR/pods/<netns cookie>/{program,listeners,link}
 *
 * Functions return 0 or -errno, where nothing else is said. Where they take a struct steer_error it says
 * which reason and, in words, what failed; it is only written then. None waits for anything but the kernel.
 * Not thread-safe, but for those that take a netns_fd and no steer: they move the calling thread there and
 * back.
 */
#ifndef AGENT_STEER_STEER_H
#define AGENT_STEER_STEER_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>
#include <time.h>

#include "bruma/maps.h"
#include "lib/addr.h"

struct steer;

struct steer_error {
    enum bruma_reason reason;
    char text[256];
};

struct steer_config {
    const char *pin_dir;
    const char *cgroup;       /* cgroup2 directory above all pods; never the root where that can be avoided */
    const char *probe_cgroup; /* cgroup2 directory of the kubelet, or NULL */
    unsigned long max_direct_connections; /* that may live; 0: as many as there is room for */
};

/* What a pod looks like to steering. Descriptors stay with the caller. */
struct steer_pod {
    int netns_fd;
    uint64_t cookie; /* of the netns */
    uint32_t generation;
    char name[BRUMA_POD_NAME_LEN];     /* "namespace/name" */
    char identity[BRUMA_POD_NAME_LEN]; /* cut if longer */
    struct addr addresses[BRUMA_POD_ADDRESSES];
    int addresses_len;
    bool bypass_inbound;                 /* plaintext from outside goes straight to the application */
    int listeners[BRUMA_LISTENER_COUNT]; /* -1 where there is none */
    /* The proxy opens the listeners and steer_pod_set_listeners() is told of them; listeners is not looked at
     * by anything else. */
    bool foreign_listeners;
    uint64_t listener_cookies[BRUMA_LISTENER_COUNT]; /* those that were set last; 0: none */
};

/* Loads and pins programs and maps, or adopts those that are pinned (updating programs in place where they
 * changed), and attaches the cgroup hooks. Refuses with PINS_IN_USE while another process has the pin
 * directory open like this, with PINS_OTHER_VERSION where maps of another layout are pinned, with
 * CGROUP_OCCUPIED where another program holds the hooks exclusively. */
int steer_open(const struct steer_config *config, struct steer **ret, struct steer_error *error);
/* Closes the handles. All pins stay and steer on. */
void steer_close(struct steer **steer);
/* Removes every pin and link below pin_dir, of pods too. Routes inside pods are not its business. */
int steer_uninstall(const char *pin_dir, struct steer_error *error);

int steer_proxy_sockets_fd(const struct steer *steer); /* the sk_storage map; stays with steer */
int steer_deliveries_fd(const struct steer *steer);    /* the map of that name; stays with steer */

/* Cookies of all pods that are pinned. Allocates *ret; the caller frees it. Returns how many, or -errno. */
int steer_pods_pinned(const struct steer *steer, uint64_t **ret);

/* Opens the three listeners in the pod: dual stack where the namespace has IPv6, backlog somaxconn, never
 * SO_REUSEPORT. listeners[i] that are not -1 are kept as they are. */
int steer_listeners_open(int netns_fd, int listeners[BRUMA_LISTENER_COUNT], struct steer_error *error);

/*
 * Enrollment, in this order; each step undoes itself when it fails and can be repeated.
 *   prepare  verifies the listeners' netns, loads the pod's program with its own SOCKMAP, puts the listeners
 *            in, sets sysctls, rules and routes, and writes the entry of the pods map with inbound capture
 *            alone, since the sk_lookup program drops while there is none. Nothing is steered yet.
 *            *ret_program_fd is the caller's (for the plugin).
 *   attach   creates the netns link and pins it: inbound is steered. (The CNI plugin may do this instead, by
 *            BPF_LINK_CREATE and a pin at steer_pod_link_path().)
 *   commit   writes the entry with all flags: outbound is captured from here on.
 * Nothing is waited for: prepare fails with -EAGAIN and POD_ADDRESS_UNUSABLE while duplicate address
 * detection runs for the pod's address, and after that was taken away. The caller tries again.
 */
int steer_pod_prepare(struct steer *steer, const struct steer_pod *pod, int *ret_program_fd,
                      struct steer_error *error);
int steer_pod_attach(struct steer *steer, const struct steer_pod *pod, struct steer_error *error);
int steer_pod_commit(struct steer *steer, const struct steer_pod *pod, struct steer_error *error);
/*
 * Binds the connections that live in the pod to the devices by which they come and go. Otherwise what comes
 * over lo for a newer one with the same addresses and ports would find them (see bpf/live.bpf.c). How many,
 * or -errno; -EOPNOTSUPP: not on this kernel.
 */
int steer_pod_bind_live(struct steer *steer, int netns_fd);
/*
 * 1 if the pod has a device behind which others are whose packets it passes on, such as a bridge or the tap
 * of a virtual machine; why says which. 0 if not, or -errno. own_device: the one that the network has given
 * it.
 */
int steer_pod_forwards(int netns_fd, const char *own_device, char *why, size_t size);
/* PIN_DIR/pods/<cookie>/link */
int steer_pod_link_path(const struct steer *steer, uint64_t cookie, char *buf, size_t size);

/*
 * Leaving, in this order.
 *   stop_outbound  new connect() calls are no longer captured.
 *   detach         inbound is no longer steered; link, program and SOCKMAP are unpinned.
 *   clean          the pods entry, counters, rules, routes and sysctls (back to their former values) are
 *                  removed. To be called once no captured connection lives: they need the route. netns_fd -1:
 *                  the namespace is gone already.
 */
int steer_pod_stop_outbound(struct steer *steer, uint64_t cookie, struct steer_error *error);
int steer_pod_detach(struct steer *steer, uint64_t cookie, struct steer_error *error);
int steer_pod_clean(struct steer *steer, uint64_t cookie, int netns_fd, struct steer_error *error);

/*
 * Questions to DNS by UDP, of a pod that is attached and committed. open: a socket for them, which the caller
 * gives to the proxy; nothing comes to it yet. start: they go there from here on; may be repeated, with
 * another socket too. stop: they go to the servers of the pod again. verify: 1 if all is in place, 0 if not,
 * or -errno. Nothing is waited for.
 */
int steer_dns_open(int netns_fd, int *ret_fd, struct steer_error *error);
int steer_dns_start(struct steer *steer, const struct steer_pod *pod, int fd, struct steer_error *error);
int steer_dns_stop(struct steer *steer, const struct steer_pod *pod, struct steer_error *error);
int steer_dns_verify(struct steer *steer, const struct steer_pod *pod, int fd);
/* True if the pod's entry says that they are captured, as an agent before may have left it. */
bool steer_dns_started(struct steer *steer, uint64_t cookie);

/* True if the pod is pinned and its link is attached to this namespace. */
bool steer_pod_attached(struct steer *steer, uint64_t cookie, int netns_fd);

/* What verification found, by reason: LINK_DETACHED, RULE_MISSING, ROUTE_MISSING, SYSCTL_CHANGED,
 * LISTENER_CLOSED, MAP_ENTRY_MISSING. LOOPBACK_DOWN comes first and is nothing that repair can put right. */
struct steer_findings {
    enum bruma_reason reasons[8];
    int len;
    bool closed_listeners[BRUMA_LISTENER_COUNT]; /* the caller opens new ones, then calls repair with them */
};

/* Looks at all of it. 0 and what was found, or -errno (-E2BIG: too many rules or routes): it is not
 * known. */
int steer_pod_verify(struct steer *steer, const struct steer_pod *pod, struct steer_findings *ret);
/* Puts right what verify found, as much of it as can be; listeners of pod are put into the SOCKMAP again
 * where they are missing. -EAGAIN with POD_ADDRESS_UNUSABLE as with prepare. */
int steer_pod_repair(struct steer *steer, const struct steer_pod *pod, const struct steer_findings *findings,
                     struct steer_error *error);

/* The kubelet is in that cgroup now ("": in none): its hook moves there. */
int steer_probe_cgroup(struct steer *steer, const char *cgroup, struct steer_error *error);
/* Puts pod->listeners into the pod's slots: new connections go there from the next packet on. Nothing keeps
 * the sockets open: a slot empties by itself when its listener is closed. */
int steer_pod_set_listeners(struct steer *steer, const struct steer_pod *pod, struct steer_error *error);

/* The process of a proxy that opens its own listeners. */
struct steer_process {
    pid_t pid;
    int pidfd;    /* stays with the caller */
    int first_fd; /* where the search for listeners begins; 0 at first */
};

/*
 * Duplicates the listeners that the process has on ports 15001, 15006 and 15008 in that namespace, and sets
 * on them what steering needs: lo for the outbound one, a long backlog. The caller puts them in by
 * steer_pod_set_listeners() and closes them at once. -ENOENT: there are none. -EBUSY: two with one port;
 * older ones are about to be closed.
 */
int steer_foreign_listeners(struct steer_process *process, int netns_fd, int ret[BRUMA_LISTENER_COUNT],
                            struct steer_error *error);
/* 1 if all three still listen, 0 if not, or -errno. A slot says nothing about that where somebody has
 * destroyed a socket (ss -K). */
int steer_foreign_listeners_live(int netns_fd, const uint64_t cookies[BRUMA_LISTENER_COUNT]);
/* How many connections of the pod carry the mark, and so need the pod's rule and route; or -errno. */
int steer_marked_connections(int netns_fd);

/* A proxy that opens its own sockets: connect() calls of processes in this cgroup are not captured in
 * pods. */
struct steer_proxy_cgroup {
    uint64_t id;
    uint32_t pid;
};
/* Both: 0 or -errno; what is there already, or is not, is no failure. id: of the cgroup, its inode number. */
int steer_proxy_cgroup_add(struct steer *steer, uint64_t id, uint32_t pid);
int steer_proxy_cgroup_remove(struct steer *steer, uint64_t id);
/* Allocates *ret; the caller frees it. Returns how many, or -errno. */
int steer_proxy_cgroups(const struct steer *steer, struct steer_proxy_cgroup **ret);

/* The cgroup hooks: 0 if attached, -ENOLINK if not, another -errno if it cannot be told. */
int steer_cgroup_verify(struct steer *steer);
/* Attaches them again. 0, or -errno with *error. */
int steer_cgroup_repair(struct steer *steer, struct steer_error *error);

#define STEER_HOOKS 11

enum steer_hook_state {
    STEER_HOOK_ATTACHED,
    STEER_HOOK_MISSING,   /* its link is gone, or leads to another cgroup */
    STEER_HOOK_UNKNOWN,   /* it cannot be told */
    STEER_HOOK_FOREGONE,  /* it may be done without, and could not be attached */
    STEER_HOOK_NO_KERNEL, /* this kernel cannot run it; it may be done without */
};

/* What is attached to the pods' cgroup and the kubelet's, for people to look at. */
struct steer_hook {
    const char *name;
    const char *cgroup; /* the steer's; NULL for NO_KERNEL */
    enum steer_hook_state state;
    uint32_t program; /* the id of the one that is attached; 0: none */
};

/* Fills ret and returns how many. */
int steer_cgroup_hooks(struct steer *steer, struct steer_hook ret[STEER_HOOKS]);

/* The SO_COOKIE of the socket in each of the pod's slots, 0 for an empty one. 0, -ENOENT if nothing is
 * pinned, or -errno. */
int steer_pod_pinned_listeners(const struct steer *steer, uint64_t cookie,
                               uint64_t ret[BRUMA_LISTENER_COUNT]);
/* True if the pod's link is pinned and its network namespace has ceased to exist. */
bool steer_pod_netns_dead(const struct steer *steer, uint64_t cookie);
/* Both: 0, -ENOENT where the pod has no entry, or -errno. */
int steer_pod_entry(struct steer *steer, uint64_t cookie, struct bruma_pod *ret);
int steer_pod_counters(struct steer *steer, uint64_t cookie, struct bruma_pod_counters *ret);
/* Sum over CPUs; all zero where it never happened. 0 or -errno. */
int steer_failure_count(struct steer *steer, enum bruma_reason reason, struct bruma_failure_count *ret);
/* Seconds since the last of them by now, of CLOCK_MONOTONIC; 0 if it came after now was read. */
static inline uint64_t steer_failure_age(const struct bruma_failure_count *failure,
                                         const struct timespec *now)
{
    uint64_t last = failure->last_seen_nanoseconds / 1000000000, seconds = (uint64_t)now->tv_sec;

    return seconds > last ? seconds - last : 0;
}

/* Both: a probe of the kubelet that goes straight to the app: declared by the pod, nobody else's. 0 or
 * -errno; removing what is not there is no failure. */
int steer_probe_add(struct steer *steer, uint64_t cookie, const struct endpoint *target);
int steer_probe_remove(struct steer *steer, const struct endpoint *target);

struct steer_probe {
    uint64_t cookie;
    struct endpoint target;
};

/*
 * The guard. While it is closed, pods below the cgroup that are neither captured nor passed get no TCP
 * connection and make none. close attaches and may be repeated; until: CLOCK_MONOTONIC nanoseconds, after
 * which it counts as open in any case. open detaches; lapse too, and leaves the time at which it opened.
 */
int steer_guard_close(struct steer *steer, const char *cgroup, uint64_t until, struct steer_error *error);
/* Until when it was closed the last time, by whichever agent, in CLOCK_MONOTONIC nanoseconds; 0: it was
 * opened since, or never closed. */
uint64_t steer_guard_closed_until(const struct steer *steer);
/* As open, but that closed_until stays. */
void steer_guard_lapse(struct steer *steer);
/* Detaches it, and closed_until is 0 from then on. A failure is not told: its time comes to an end anyway. */
void steer_guard_open(struct steer *steer);
/* Connections to undecided pods are held back too; false: this kernel cannot. */
bool steer_guard_holds_inbound(const struct steer *steer);

/* This namespace is known, and not captured. pod: "namespace/name", for people. */
int steer_sandbox_pass(struct steer *steer, uint64_t cookie, enum bruma_sandbox_state state, const char *pod);
/* Nothing is known of it any more, whether there was an entry or not. 0 or -errno. */
int steer_sandbox_forget(struct steer *steer, uint64_t cookie);
/* It is captured, or was passed. */
bool steer_sandbox_decided(struct steer *steer, uint64_t cookie);
/* Cookies of all that there is an entry for. Allocates *ret; the caller frees it. Returns how many, or
 * -errno. */
int steer_sandboxes(struct steer *steer, uint64_t **ret);

/* All that are registered, of all pods. Allocates *ret; the caller frees it. Returns how many, or -errno. */
int steer_probes(const struct steer *steer, struct steer_probe **ret);

#endif
