/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Whether a connection may go on, and where to: what is accepted of the pod's applications and from outside
 * (pending.h) and the requests of peers (inbound.h) are decided upon in the same steps. What a step needs and
 * has not got is waited for: the pod's workload or certificate for source_timeout, then policies that the
 * workload names for policy_timeout. All of it on the worker's own thread.
 */
#ifndef PROXY_CONNECTION_ADMISSION_H
#define PROXY_CONNECTION_ADMISSION_H

#include "proxy/worker/connection.h"

struct admission;

enum admission_step {
    ADMISSION_WAITS,    /* something is missing, and there is time */
    ADMISSION_POLICIES, /* they are asked next */
    ADMISSION_OVER,     /* refused, or something else already; the admission may be gone */
};

/* What the ways in differ in. */
struct admission_ops {
    /* Called until it is placed: finds out who the pod is and where the connection goes. timed_out: nothing
     * is waited for any longer. */
    enum admission_step (*place)(struct admission *admission, bool timed_out);
    /* Where policies are asked, they have decided: telemetry is told of the connection, once described. */
    void (*open)(struct admission *admission);
    /* Called when they let it pass. */
    void (*allowed)(struct admission *admission);
    /* status: what a request is answered with. detail: NULL, or valid for this call. */
    void (*refused)(struct admission *admission, int status, enum bruma_reason reason, const char *detail);
};

struct admission {
    struct waiter waiter;
    struct connection *c; /* of whoever has the admission */
    const struct admission_ops *ops;
    bool placed, policy_waited;
    uint64_t waits_since; /* telemetry_now() (nanoseconds), of what it waits for now; 0: it does not */
    bool looks;           /* something of the mesh has been asked for: demand.h */
};

/* ops: kept, not copied. */
void admission_init(struct admission *admission, struct connection *c, const struct admission_ops *ops);
/* True: it is over (and may be gone). False: it has to wait, by worker_wait(&admission->waiter). */
bool admission_begin(struct admission *admission);
/* Before it waits: it and its connection have moved to where they can stay. */
void admission_move(struct admission *to, const struct admission *from, struct connection *c);

/* For place(): the pod's workload is needed, and nothing more is done where the pod stays unknown. True: it
 * is there, in *ret, valid while the pod is. False: *ret_step says what place() returns, and *ret is not
 * written. */
bool admission_needs_workload(struct admission *admission, bool timed_out, const struct workload **ret,
                              enum admission_step *ret_step);

#endif
