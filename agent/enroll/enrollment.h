/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How a pod stands to the mesh, and what verification has found of its capture: the records of enrollment
 * about a pod, which everybody reads by pod->enrollment and pod->health. Only agent/enroll writes them
 * (member.h); what is done with a pod is in enroll.h. All on the loop's thread.
 */
#ifndef AGENT_ENROLL_ENROLLMENT_H
#define AGENT_ENROLL_ENROLLMENT_H

#include "agent/pod/pods.h"
#include "agent/steer/node.h"
#include "agent/steer/quick_check.h"
#include "lib/direct_ways.h"
#include "lib/message.h"
#include "lib/outbound_policy.h"

enum pod_state {
    POD_OUTSIDE,   /* not in the mesh; nothing of ours is in its namespace */
    POD_ENROLLING, /* prepared; the plugin or the proxy has not answered yet */
    POD_ENROLLED,  /* verified */
    POD_LEAVING,   /* outbound is no longer captured, inbound still is */
    POD_DRAINING,  /* nothing is captured; live connections still need the rule and the route */
    POD_STATE_COUNT,
};

struct enrollment {
    enum pod_state state;
    bool captured_since_start; /* enrolled by the CNI plugin, so before its first process */

    /* of the last enrollment */
    uint32_t generation;
    bool bypass_inbound;
    enum outbound_policy outbound_policy;
    struct direct_switches direct; /* of annotations */
    char service_account[MESSAGE_NAME_MAX + 1];
    uint64_t took_microseconds;
    int64_t enrolled_at; /* CLOCK_REALTIME seconds, 0: never */

    int64_t ending_at; /* CLOCK_REALTIME seconds at which it was known that the pod ends; 0: it does not */

    /* The agent's own, -1: none; or where proxies open them, the cookies of those in the pod's slots, 0:
     * none. */
    int listeners[BRUMA_LISTENER_COUNT];
    uint64_t listener_cookies[BRUMA_LISTENER_COUNT];
    struct steer_exclusions *exclusions; /* from capture, that were set last; NULL: none */
    bool exclusions_set;                 /* by this agent, since it has prepared or adopted the pod */
    enum bruma_reason exclusions_reason; /* why they could not be, as it was logged; or NONE */
    int dns_socket;                      /* that its DNS queries are captured by; -1: they are not */
    enum bruma_reason dns_reason; /* why they are not, although they should be, as it was logged; or NONE */
    bool awaits_listeners;        /* adopted after a restart; somebody else holds the listeners */

    bool node_looked; /* at its device, by this agent; then this is why its connections to other pods of the
                       * node do not stay in the kernel, as it was logged: */
    enum steer_node_refusal node_refusal;
    unsigned failed_tries;         /* to enroll it, in a row, of the agent's own */
    enum bruma_reason logged;      /* that is in the log; NONE: of none */
    enum bruma_reason last_reason; /* of the last failure; NONE after a success */
    char last_error[256];
};

/* While verification finds something that cannot be put right, unrepaired.len is not 0. */
struct health {
    struct steer_quick_check quick_check; /* between verifications in full */
    uint64_t swept_at;                    /* loop time */
    uint64_t walked_at;                   /* loop time of the last one of those */
    int64_t verified_at;                  /* CLOCK_REALTIME seconds, 0: never */
    uint32_t repairs[BRUMA_REASON_COUNT]; /* since the agent started */
    struct steer_findings unrepaired;
    unsigned failed_repairs;         /* in a row */
    uint64_t repair_at;              /* loop time; the same is not tried again before */
    enum bruma_reason repair_reason; /* of the last failure */
};

/* Makes a pod in state POD_OUTSIDE and adds it; strings are copied. 0 or -ENOMEM. */
int enroll_pod_new(struct pods *pods, const char *uid, const char *namespace, const char *name,
                   struct pod **ret);
/* Takes the pod out, closes its descriptors and frees it, at the end of the loop's turn if it has a loop.
 * Nothing in the kernel is changed. */
void enroll_pod_free(struct pod *pod);
/* The same for all. */
void enroll_pods_free(struct pods *pods);

/* How many pods are in this state. */
int enroll_count(const struct pods *pods, enum pod_state state);

/* The word for logs, records and the protocol; static, never NULL. */
const char *pod_state_name(enum pod_state state);
/* POD_STATE_COUNT if there is none of that name. */
enum pod_state pod_state_from_name(const char *name);

#endif
