/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An accepted connection that is neither a stream nor a relay yet: it has a socket, and is decided upon. It
 * lives on the stack of who accepted it, and on the heap only once it has to wait. Either it becomes a stream
 * or a relay, which take over its socket and what it is (connection_move()), or it is refused.
 */
#ifndef PROXY_CONNECTION_PENDING_H
#define PROXY_CONNECTION_PENDING_H

#include "proxy/connection/admission.h"
#include "proxy/connection/relay.h"
#include "proxy/worker/connection_unit.h"

struct pending {
    struct admission admission;
    struct connection c;
    int fd;
    bool waits;      /* and is on the heap for it */
    bool names;      /* outbound: the address of a hostname has been looked up */
    uint64_t choice; /* outbound: one of several endpoints is chosen by it, the same each time it is asked */
};

/* Whose admission it is: never NULL, and it lives as long. */
static inline struct pending *pending_of(struct admission *admission)
{
    return container_of(admission, struct pending, admission);
}

/* Takes fd. ops: kept, not copied. */
void pending_init(struct pending *pending, struct worker_pod *wp, const struct admission_ops *ops,
                  bool inbound, int fd, const struct endpoint *client, const struct endpoint *destination);
/* What has been decided upon, and had become something else, is pending again: takes connection and fd. */
void pending_again(struct pending *pending, const struct admission_ops *ops, int fd,
                   struct connection *connection);
/* pending is over or elsewhere afterwards. */
void pending_decide(struct pending *pending);
/* Whether the connection is one that waits. */
bool pending_waits(const struct connection *connection);
/* One that waits, for which nobody else does, is to be decided anew: its socket, the caller's from here on,
 * has not been touched. -1, and ret is not written: the connection is none that is pending. */
int pending_let_go(struct connection *connection, struct connection_past *ret);

/* Its end: the client sees a reset, the log the reason; NONE: nothing. detail may be NULL. */
void pending_refuse(struct pending *pending, enum bruma_reason reason, const char *detail);
/* The same, as admission_ops have it. */
void pending_refused(struct admission *admission, int status, enum bruma_reason reason, const char *detail);
/* Its end: described and open, it becomes a relay to target. failed: of relay_start(). */
void pending_relay(struct pending *pending, const struct endpoint *target, relay_failed_fn failed);
/* Its end: what it became has its socket and its connection. */
void pending_over(struct pending *pending);

#endif
