/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of the steering library share. */
#ifndef AGENT_STEER_INTERNAL_H
#define AGENT_STEER_INTERNAL_H

#include <limits.h>

#include "agent/steer/steer.h"
#include "bruma/direct.h"
#include "bruma/protocol.h"

/* Maps of direct ways: those of enum bruma_direct_fd, and these. */
enum {
    DIRECT_MAP_COUNTERS = BRUMA_DIRECT_FD_COUNT,
    DIRECT_MAP_FLOWS_FULL,
    DIRECT_MAP_FLOW_COUNTS,
    DIRECT_MAP_FLOW_TOTALS,
    DIRECT_MAP_FLOW_LIMITS,
    DIRECT_MAP_FLOW_REFUSALS,
    DIRECT_MAP_LISTENERS,
    DIRECT_MAP_NODE, /* the first of enum bruma_node_fd, and then the others of bruma/node.h */
    DIRECT_MAP_NODE_ARRIVING = DIRECT_MAP_NODE + BRUMA_NODE_FD_COUNT,
    DIRECT_MAP_NODE_COUNTERS,
    DIRECT_MAP_NODE_SOCKETS,
    DIRECT_MAPS
};

#define STEER_NODE_ENDS  2 /* programs at the end of a pod's device */
#define STEER_NODE_HOOKS 3 /* at the pods' cgroup */

struct steer {
    char pin_dir[PATH_MAX / 8];
    char cgroup[PATH_MAX / 8];
    char probe_cgroup[PATH_MAX / 8]; /* "" : none */
    int lock_fd;                     /* the pin directory, locked */
    int pods_fd, pod_counters_fd, failures_fd, proxy_sockets_fd, proxy_cgroups_fd, probe_targets_fd,
        probe_tuples_fd, deliveries_fd, dns_sockets_fd, excluded_ranges_fd, excluded_ports_fd,
        exclusion_counters_fd;
    int direct_fds[DIRECT_MAPS];
    int connect_fds[2];                      /* programs of connect4 and connect6 */
    int accepted_fd;                         /* program, -1: the kernel has not what it needs */
    int sweep_fd, forget_fd;                 /* likewise */
    int released_fd;                         /* likewise */
    bool accepted_refused, released_refused; /* it cannot be attached, and that is in the log */
    int probes_fd;                           /* program, -1: not used */
    int guard_fd, sandboxes_fd;
    int guard_fds[3];  /* programs; the last, for inbound, is -1 where the kernel has not what it needs */
    int option_fds[3]; /* programs; the last two are -1 where the kernel has not what they need */
    int live_fd;       /* program, -1: the kernel has not what it needs */
    int node_fds[STEER_NODE_HOOKS]; /* programs; -1: connections between pods of the node do not stay here */
    bool node_refused;              /* one of them could not be attached */
    uint8_t node_tags[STEER_NODE_ENDS][8]; /* of the programs at devices that this build has */
    uint8_t lookup_tag[8];                 /* of the pod program that this build has */
};

/* ---- pinned.c: below all the others ---- */

/* Fills *error and returns -|e|, so that a failure can be told and returned in one expression. */
int steer_fail(struct steer_error *error, enum bruma_reason reason, int e, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

/* Every map that is pinned by name goes below PIN_DIR/maps; libbpf takes what is there if its layout is
 * the same. 0, -errno with *error; PINS_OTHER_VERSION for another layout. */
struct bpf_object;
int steer_pin_paths(const struct steer *steer, struct bpf_object *object, struct steer_error *error);

/* PIN_DIR/pods/<cookie>[/name]; name NULL: the directory. 0 or -ENAMETOOLONG. */
int steer_pod_pin_path(const struct steer *steer, uint64_t cookie, const char *name, char *buf, size_t size);
/* A descriptor of what is pinned there, or -errno. */
int steer_pod_pin_open(const struct steer *steer, uint64_t cookie, const char *name);

/* ---- the others ---- */

/* direct.c: keeps descriptors of its maps, from an object that has all of them. 0 or -errno. */
int steer_direct_take(struct steer *steer, const struct bpf_object *object);
/* Has an object that is not loaded yet use them, as far as it knows them. 0 or -errno. */
int steer_direct_share(const struct steer *steer, struct bpf_object *object);
/* Closes what steer_direct_take() has opened, of which some may be missing. */
void steer_direct_release(struct steer *steer);
/* The listener of that slot, and what it accepts from now on, is known as the proxy's. 0 or -errno. */
int steer_direct_mark_listener(const struct steer *steer, uint32_t slot, int fd);
/* Adds the pod's counters, all zero, unless they are there. 0 or -errno. */
int steer_direct_add(struct steer *steer, uint64_t cookie);
/* Removes what there is of the pod in all these maps. */
void steer_direct_remove(struct steer *steer, uint64_t cookie);

/* Whether it is one of those that are looked for; called for each entry, on the caller's thread. */
typedef bool (*flow_match_fn)(uint64_t socket, const struct bruma_flow *flow, void *data);
/* Removes those entries of flows; data goes to match. How many, or -errno. */
int steer_direct_remove_flows(const struct steer *steer, flow_match_fn match, void *data);
/* Once the maps are there, and before any program is attached that counts: what flows holds already, and how
 * many there may be. 0 or -errno. */
int steer_direct_count(struct steer *steer, unsigned long most);
/* direct_sweep.c; does without where the kernel has not what it needs, and says so. After the maps were
 * taken. */
void steer_sweep_load(struct steer *steer);

/* cgroup.c: whether the link is attached to that cgroup. */
bool steer_link_attached_to(int link_fd, const char *cgroup);

/* guard_program.c: maps and programs of the guard, attached to nothing yet; without the one for inbound
 * where the kernel cannot. 0, or -errno with *error. */
int steer_guard_load(struct steer *steer, struct steer_error *error);
/* Closes what the load has opened, of which some may be missing. */
void steer_guard_unload(struct steer *steer);

/* options.c: programs that look at sockets' options, attached to nothing yet; without those that the
 * kernel cannot run. 0, or -errno with *error. */
int steer_options_load(struct steer *steer, struct steer_error *error);
/* Closes what the load has opened, of which some may be missing. */
void steer_options_unload(struct steer *steer);

/* live.c. Both do without where the kernel has not what they need, and say so. */
void steer_live_load(struct steer *steer);
void steer_accepted_load(struct steer *steer);

/* pin_dir.c: makes the directory with its parts, in a BPF file system and nowhere else. 0, or -errno
 * with PIN_DIR_UNUSABLE. */
int pin_dir_prepare(const char *pin_dir, struct steer_error *error);
/* Two agents would open listeners and repair behind each other's back. The lock goes with the process,
 * however it ends. 0, -EBUSY with PINS_IN_USE, or -errno with PIN_DIR_UNUSABLE. */
int pin_dir_lock(struct steer *steer, struct steer_error *error);

/* cgroup.c: attaches what is not attached, adopts and updates what is. 0, or -errno with *error: what
 * may not be done without is not attached. */
int steer_cgroup_attach(struct steer *steer, struct steer_error *error);

/* pod_program.c: loads an instance for the pod and puts it in place of the attached one, if that is
 * another. 0, also if half an enrollment is there; -errno with *error. */
int steer_pod_program_update(struct steer *steer, uint64_t cookie, struct steer_error *error);
/* Loads an instance; *ret_program and *ret_listeners are the caller's. listeners_fd -1: a new SOCKMAP.
 * 0, or -errno with *error. */
int steer_pod_program_load(struct steer *steer, uint64_t cookie, int listeners_fd, int *ret_program,
                           int *ret_listeners, struct steer_error *error);
/* The kernel's digest of its instructions: two of one tag are the same program. 0 or -errno. */
int steer_program_tag(int program_fd, uint8_t tag[8]);

/* families.c. Both: bits BRUMA_POD_NO_IPV4 and BRUMA_POD_NO_IPV6, where the pod has no address of the family
 * beside those that lead nowhere; 0 where that cannot be told. _here: of the namespace that the calling
 * thread is in. */
uint32_t pod_no_family(int netns_fd);
uint32_t pod_no_family_here(void);

/* pod.c, for who looks at what it has done. Flags of a pod's entry: what was on before, and addresses. */
#define FORMER_FLAGS \
    (BRUMA_POD_HAD_FWMARK_ACCEPT | BRUMA_POD_HAD_FWMARK_REFLECT4 | BRUMA_POD_HAD_FWMARK_REFLECT6)
/* What other steps than writing the entry decide about. */
#define KEPT_FLAGS                                                                                     \
    (FORMER_FLAGS | BRUMA_POD_CAPTURE_DNS | BRUMA_POD_EXCLUDES_OUTBOUND | BRUMA_POD_EXCLUDES_INBOUND | \
     BRUMA_POD_SECOND_SET)
#define FAMILY_FLAGS (BRUMA_POD_NO_IPV4 | BRUMA_POD_NO_IPV6)
/* True if r says that there is no pin, and not merely that it cannot be had now. */
bool steer_pin_missing(int r);
/* The bits BRUMA_POD_* of how inbound is captured. */
uint32_t pod_inbound_flags(const struct steer_pod *pod);
/* 1, 0, or -errno: it cannot be told. */
int pod_link_attached(struct steer *steer, uint64_t cookie, int netns_fd);

/* pod_netns.c: rules, routes and sysctls in the pod; nothing is waited for. former: flags
 * BRUMA_POD_HAD_* that say what was on before, added to it also on failure. 0, -EAGAIN with
 * POD_ADDRESS_UNUSABLE: all is set but the route whose source cannot be used, perhaps not yet; or
 * -errno with *error. */
int pod_netns_setup(const struct steer_pod *pod, uint32_t *former, struct steer_error *error);
/* Before the first enrollment: 0, -EBUSY with NUMBER_TAKEN where a rule of somebody else is for our
 * mark, or -errno. */
int pod_netns_check_mark(const struct steer_pod *pod, struct steer_error *error);
/* Takes out what setup has put in; sysctls that were off before (former) are off again. 0, or -errno
 * with *error: of the last that failed. */
int pod_netns_clean(int netns_fd, uint32_t former, struct steer_error *error);
/* The rules for the pod's DNS queries, in each family in which the others are; or without them. 0 or
 * -errno. */
int pod_netns_dns(const struct steer_pod *pod, bool on, struct steer_error *error);
/* 1: such a rule is missing where the others are, 0: none is, -errno: it cannot be told. */
int pod_netns_dns_lacks(const struct steer_pod *pod);
/* What is not as it should be. */
struct pod_netns_state {
    uint32_t no_family; /* BRUMA_POD_NO_IPV4, BRUMA_POD_NO_IPV6 */
    bool loopback_down, rule_missing, route_missing, sysctl_changed;
};
/* What is missing in the pod. 0, -errno, or -E2BIG: it has so many rules or routes that ours are not
 * looked for. */
int pod_netns_verify(const struct steer_pod *pod, struct pod_netns_state *ret);

/* The path of one that is set, of those that quick_check.h counts; index from 0 to QUICK_CHECK_SYSCTLS - 1. A
 * static text, never NULL. */
const char *pod_netns_sysctl(int index);

/* pod.c: whether the entry and the counters are there, and say what they should. */
bool pod_entry_fits(struct steer *steer, const struct steer_pod *pod);

#endif
