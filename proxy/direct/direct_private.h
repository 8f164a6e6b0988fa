/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of direct/ share. Control thread. */
#ifndef PROXY_DIRECT_DIRECT_PRIVATE_H
#define PROXY_DIRECT_DIRECT_PRIVATE_H

#include <pthread.h>

#include "proxy/direct/cutter.h"
#include "proxy/direct/direct.h"
#include "proxy/direct/heartbeat.h"
#include "proxy/direct/mesh_copy.h"
#include "proxy/direct/sweep.h"

#define DIRECT_OUTSIDE_WAYS ((uint32_t)BRUMA_DIRECT_OUTSIDE)
#define DIRECT_INBOUND_WAYS ((uint32_t)(BRUMA_DIRECT_PASS | BRUMA_DIRECT_REFUSE | BRUMA_DIRECT_BYPASS))

struct direct {
    struct proxy *proxy;
    uint64_t number;
    struct direct_maps maps;
    struct bruma_direct_control *control; /* mapped; NULL: there are no maps */
    bool outside, inbound, node;          /* switched on by the agent's settings; node: in the kernel */
    bool pods_named, mesh_known, draining;
    int socket; /* by which the kernel knows that this process lives; -1: none */
    bool alive; /* it is in direct_proxies */
    struct mesh_copy copy;
    struct heartbeat heartbeat;
    struct sweep sweep;
    pthread_mutex_t cutter_lock; /* guards the pointer, which other threads follow */
    struct cutter *cutter;       /* NULL: this kernel has none, so nothing may go directly */
    bool unable;                 /* the cutter has said so; nor may anything be */
    uint32_t ways;               /* that the word has, while in charge */
    bool in_charge;              /* as far as this process knows */
    bool urgent;                 /* to be in charge whoever is: the agent has just said so */
    bool deposed;                /* said in the log */
    unsigned beats;              /* since the last look at what others do */
    uint64_t others[BRUMA_MAX_DIRECT_PROXIES];
    unsigned others_len;
    int alive_error;
    unsigned long taken, lost, alive_failures, pod_failures, repaired;
};

enum direct_occasion {
    DIRECT_NEWS,     /* something has changed */
    DIRECT_POLICIES, /* policies too: what was let pass before is judged again */
    DIRECT_TAKEN,    /* this process takes charge: the same, and every entry is written */
    DIRECT_CHANGING, /* policies are about to change: nothing passes inbound until it is known how */
};

/* Writes the pod's entry, with none but these ways. False: it cannot be written, and what was there cannot be
 * removed either: nobody may look at it. */
bool direct_pod_write(struct direct *direct, struct pod *pod, uint32_t ways, enum direct_occasion occasion);
/* Writes those of all pods. False as above. */
bool direct_pods_write(struct direct *direct, uint32_t ways, enum direct_occasion occasion);
/* For state_watch_policies(): policies are about to change. data: the struct direct. */
void direct_policies_changing(void *data);
/* Writes again what others have changed. */
void direct_pods_repair(struct direct *direct);

/* The name of a reason (BRUMA_LONG_WAYS): a static text, never NULL. */
const char *direct_long_way_name(uint32_t why);

/* A listener that nobody can make use of, which ends with this process. The descriptor, or -errno. */
int alive_socket_open(void);

#endif
