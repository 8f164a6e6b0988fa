/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A pod with all that enrollment keeps about it, each part for the file that it is named after. Private to
 * agent/enroll: who else has a struct pod reads enrollment.h, and asks functions.
 */
#ifndef AGENT_ENROLL_MEMBER_H
#define AGENT_ENROLL_MEMBER_H

#include "agent/enroll/enroll.h"
#include "lib/cleanup.h"
#include "lib/loop.h"

/* enroll.c, enroll_leave.c: the move that is under way. */
struct transition {
    struct loop_timer timer; /* of the state: acknowledgement, grace, next try */

    /* while POD_ENROLLING */
    pod_enrolled_fn done; /* NULL: nobody waits */
    void *done_data;
    bool awaits_plugin, awaits_proxy;
    int refusal;       /* 0 or -errno: it is rolled back, by the last failure, once the plugin has answered */
    bool by_plugin;    /* the plugin attaches */
    bool was_draining; /* a failure leads back there: connections of before may live */
    uint64_t address_until;      /* loop time until which its address is waited for; 0: it is not */
    uint64_t begun_microseconds; /* CLOCK_MONOTONIC */

    uint64_t leave_until;      /* loop time; while POD_LEAVING: it goes on then in any case */
    uint64_t clean_not_before; /* loop time; while POD_DRAINING */
};

/* follow.c: what the kernel reports of its namespace. */
struct following {
    int routes_fd;            /* netlink socket in the pod's namespace, which reports changes; -1: none */
    struct loop_watch routes; /* of it, but for the time between a hint and the look that it leads to */
    bool unfollowed;          /* the last try to watch it failed */
    bool links_changed;       /* since it was asked what the pod passes on */
    struct loop_timer verify_soon;
    uint64_t look_wait; /* milliseconds to the next look */
    uint64_t looked_at; /* loop time of the last one that a hint led to */
};

/* reap.c: whether its namespace is there still. */
struct presence {
    unsigned missing;         /* looks in a row that did not find it */
    bool named;               /* its name led to it at the last look */
    uint64_t look_at;         /* loop time; no look for processes before it */
    bool searched, inhabited; /* processes are being looked for that live in it; one was seen */
};

struct member {
    struct pod pod;
    struct agent *agent; /* NULL until it is bound: see enroll.h */
    struct enrollment enrollment;
    struct health health;
    struct transition transition;
    struct following following;
    struct presence presence;
    char forwards[96]; /* forwards.c */
};

/* Never NULL: each pod of the agent is the beginning of one, and these are parts of it; they live as long. */
static inline struct member *member_of(const struct pod *pod)
{
    return container_of((struct pod *)pod, struct member, pod);
}

/* A part of the member, never NULL, that lives as long: to write what everybody reads. */
static inline struct enrollment *enrollment_of(const struct pod *pod)
{
    return &member_of(pod)->enrollment;
}

/* A part of the member, never NULL: it lives as long. */
static inline struct health *health_of(const struct pod *pod)
{
    return &member_of(pod)->health;
}

/* A part of the member, never NULL: it lives as long. */
static inline struct transition *transition_of(const struct pod *pod)
{
    return &member_of(pod)->transition;
}

/* A part of the member, never NULL: it lives as long. */
static inline struct following *following_of(const struct pod *pod)
{
    return &member_of(pod)->following;
}

/* A part of the member, never NULL: it lives as long. */
static inline struct presence *presence_of(const struct pod *pod)
{
    return &member_of(pod)->presence;
}

/* Copies the words behind a failure, or behind none, for status and explain. */
void enroll_set_error(struct pod *pod, enum bruma_reason reason, const char *text);
/* Those of its namespace, of its listeners and of who watches it. */
void enroll_close_descriptors(struct pod *pod);

#endif
