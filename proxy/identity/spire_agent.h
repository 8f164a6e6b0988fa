/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The node's SPIRE agent on its socket: one connection, the streams on it, and the bundles, which it sends
 * whenever they change. Control thread.
 */
#ifndef PROXY_IDENTITY_SPIRE_AGENT_H
#define PROXY_IDENTITY_SPIRE_AGENT_H

#include <stdio.h>

#include "bruma/reasons.h"
#include "lib/rpc/grpc.h"
#include "proxy/identity/spire_trust.h"
#include "proxy/wire/wire.h"

struct spire_agent {
    struct loop *loop;
    const char *socket;             /* a path */
    bool workload_api;              /* the Workload API's socket; else the Delegated Identity API's */
    struct grpc_channel *channel;   /* NULL: none just now */
    struct grpc_call *bundles_call; /* NULL: none just now; the Workload API has none */
    struct loop_timer bundles_retry;
    uint64_t backoff;
    bool up; /* it has answered on this channel */
    struct spire_trust trust;
    void (*answers)(void *data);       /* called when it is up, and was not */
    void (*trust_changed)(void *data); /* called when other roots are in force than before */
    void *data;
};

/* socket must live as long, and the callbacks be set by the caller afterwards. */
void spire_agent_init(struct spire_agent *agent, struct loop *loop, const char *socket, bool workload_api);
/* Ends the connection; nobody has a stream any more. The bundles stay. */
void spire_agent_leave(struct spire_agent *agent);
/* Ends everything. */
void spire_agent_clear(struct spire_agent *agent);

/* Opens the stream of one identity's certificates; request: as spire_selectors_put() makes it, of the
 * Workload API empty. Bundles are followed from then on. 0 or -errno, and no event follows. */
int spire_agent_subscribe(struct spire_agent *agent, const struct wire_writer *request,
                          const struct grpc_call_events *events, void *data, struct grpc_call **ret);
/* What the end of a stream means, in words. */
enum bruma_reason spire_agent_ended(enum grpc_status status, const char *text, char *error,
                                    size_t error_size);
/* Something good has come on a stream. */
void spire_agent_is_up(struct spire_agent *agent);

/* Whether it is there, and what it has sent. */
void spire_agent_write_metrics(const struct spire_agent *agent, FILE *out);

#endif
