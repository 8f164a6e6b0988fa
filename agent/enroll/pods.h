/* SPDX-License-Identifier: Apache-2.0 */
/* The pods of this node, in the mesh or not, as the CNI plugin has told us of them. Data only: what is done
 * with them is in enroll.h. */
#ifndef AGENT_ENROLL_PODS_H
#define AGENT_ENROLL_PODS_H

#include <stdbool.h>
#include <stdint.h>

#include "agent/steer/quick_check.h"
#include "bruma/maps.h"
#include "lib/addr.h"
#include "lib/list.h"
#include "lib/loop.h"
#include "lib/message.h"

enum pod_state {
    POD_OUTSIDE,   /* not in the mesh; nothing of ours is in its namespace */
    POD_ENROLLING, /* prepared; the plugin or the proxy has not answered yet */
    POD_ENROLLED,  /* verified */
    POD_LEAVING,   /* outbound is no longer captured, inbound still is */
    POD_DRAINING,  /* nothing is captured; live connections still need the rule and the route */
    POD_STATE_COUNT,
};

/* One run of the CNI chain for the pod. */
struct attachment {
    struct list node;
    char *network; /* "" if the plugin did not name it */
    char *ifname;
};

struct pod;
struct steer_error;

/* Ends an enrollment that waited for someone. r: 0 or -errno with the reason in error. */
typedef void (*pod_enrolled_fn)(void *data, struct pod *pod, int r, const struct steer_error *error);

struct pod {
    struct list node; /* in struct pods */
    struct loop *loop;
    void *owner; /* of the timer and the watch: the enrollment engine */

    char *uid, *namespace, *name, *container_id, *netns_path;
    struct list attachments;
    uint64_t cookie;      /* of the network namespace */
    uint64_t netns_inode; /* of netns_path when it was last seen to lead there; 0: not known */
    bool netns_unseen; /* the agent sees nothing at netns_path: processes tell whether the namespace lives */
    uint64_t netns_look; /* loop time; no look for processes before it */
    struct addr addresses[BRUMA_POD_ADDRESSES];
    int addresses_len;

    enum pod_state state;
    uint32_t generation;                        /* of the last enrollment */
    bool bypass_inbound;                        /* of the last enrollment */
    bool captured_since_start;                  /* enrolled by the CNI plugin, so before its first process */
    char service_account[MESSAGE_NAME_MAX + 1]; /* of the last enrollment */

    uint64_t held_inode, held_device; /* of netns_fd; 0: not asked yet */
    int netns_fd;                     /* -1 while outside the mesh: an open one keeps the namespace alive */
    int listeners[BRUMA_LISTENER_COUNT];
    /* of the listeners in its slots, where proxies open them; 0: none */
    uint64_t listener_cookies[BRUMA_LISTENER_COUNT];
    int dns_socket;               /* that its questions to DNS are captured by; -1: they are not */
    enum bruma_reason dns_reason; /* why they are not, although they should be, as it was logged; or NONE */
    bool awaits_listeners;        /* adopted after a restart; somebody else holds the listeners */

    /* while POD_ENROLLING */
    pod_enrolled_fn done; /* NULL: nobody waits */
    void *done_data;
    bool awaits_plugin, awaits_proxy;
    int refusal;       /* 0 or -errno: it is rolled back, by the last failure, once the plugin has answered */
    bool by_plugin;    /* the plugin attaches */
    bool was_draining; /* a failure leads back there: connections of before may live */
    unsigned failed_tries;       /* in a row, of the agent's own */
    uint64_t address_until;      /* loop time until which its address is waited for; 0: it is not */
    uint64_t begun_microseconds; /* CLOCK_MONOTONIC */

    char forwards[96]; /* agent/enroll/forwards.h: the device by which it passes on what others send; "": none
                        */
    bool links_changed; /* since that was looked at */

    struct loop_timer timer;  /* of the state: acknowledgement, grace, next try */
    int routes_fd;            /* netlink socket in the pod's namespace, which reports changes; -1: none */
    struct loop_watch routes; /* of it, but for the time between a hint and the look that it leads to */
    bool unfollowed;          /* the last try to watch it failed */
    struct steer_quick_check quick_check; /* between verifications in full */
    uint64_t walked_at;                   /* loop time of the last one of those */
    struct loop_timer verify_soon;
    uint64_t look_wait,
        looked_at;            /* milliseconds to the next one; loop time of the last one that a hint led to */
    unsigned netns_missing;   /* looks in a row that did not find the namespace */
    bool netns_seen;          /* its name led to it at the last look */
    bool searched, inhabited; /* processes are being looked for that live in it; one was seen */
    uint64_t added;           /* loop time at which it was, also of an agent before this one */
    uint64_t leave_until;     /* loop time; while POD_LEAVING: it goes on then in any case */
    uint64_t clean_not_before; /* loop time; while POD_DRAINING */
    struct list assignments;   /* of proxies, struct pod_assignment */

    /* what an operator wants to know */
    uint64_t enroll_microseconds;               /* that the last enrollment took */
    int64_t added_at, enrolled_at, verified_at; /* CLOCK_REALTIME seconds, 0: never */
    uint32_t repairs[BRUMA_REASON_COUNT];       /* since the agent started */

    /* while verification finds something that cannot be put right */
    struct steer_findings unrepaired; /* len 0: nothing */
    unsigned failed_repairs;          /* in a row */
    uint64_t repair_at;               /* loop time; the same is not tried again before */
    enum bruma_reason repair_reason;  /* of the last failure */
    enum bruma_reason logged;         /* that is in the log; NONE: of none */

    enum bruma_reason last_reason; /* of the last failure; NONE after a success */
    char last_error[256];
};

struct pods {
    struct list list;
};

void pods_init(struct pods *pods);
/* Closes and frees all; nothing in the kernel is changed. */
void pods_free(struct pods *pods);

struct pod *pods_by_uid(const struct pods *pods, const char *uid);
struct pod *pods_by_container(const struct pods *pods, const char *container_id);
struct pod *pods_by_cookie(const struct pods *pods, uint64_t cookie);
struct pod *pods_by_name(const struct pods *pods, const char *namespace, const char *name);
int pods_count(const struct pods *pods, enum pod_state state);

/* A new pod in state POD_OUTSIDE; strings are copied. */
int pod_new(struct pods *pods, const char *uid, const char *namespace, const char *name, struct pod **ret);
/* Takes the pod out, closes its descriptors and frees it at the end of the loop's turn. */
void pod_free(struct pod *pod);
int pod_set_sandbox(struct pod *pod, const char *container_id, const char *netns_path, uint64_t cookie);
/* Adds the run of the chain if it is new. */
int pod_attach(struct pod *pod, const char *network, const char *ifname);
/* Forgets it; true if none is left. */
bool pod_detach(struct pod *pod, const char *ifname);
/* Adds those that are new, as far as there is room (see addr_list_add()). Returns how many were added. */
int pod_merge_addresses(struct pod *pod, const struct addr *addresses, int len);
void pod_close_descriptors(struct pod *pod);
/* fd: of its namespace. Notes whether the path leads there as the agent sees it. */
void pod_look_at_netns(struct pod *pod, int fd);
/* 1: the path still leads to this pod's network namespace. 0: it does not. -errno: it cannot be told. */
int pod_netns_present(struct pod *pod);

/* Copies the words behind r for status and explain. */
void pod_set_error(struct pod *pod, enum bruma_reason reason, const char *text);

const char *pod_state_name(enum pod_state state);
/* POD_STATE_COUNT if there is none of that name. */
enum pod_state pod_state_from_name(const char *name);

#endif
