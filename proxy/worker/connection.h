/* SPDX-License-Identifier: Apache-2.0 */
/* What every proxied connection has, whatever carries its bytes: who talks to whom, telemetry, and the check
 * against policies. */
#ifndef PROXY_WORKER_CONNECTION_H
#define PROXY_WORKER_CONNECTION_H

#include "proxy/route/policy.h"
#include "proxy/worker/quota.h"
#include "proxy/worker/worker.h"

struct tried_endpoints;
struct connection_news;

/* Who waits for what becomes of a connection before it carries bytes. One of the two is called, once, on the
 * worker's own thread. */
struct connection_news {
    /* Called when the other side is there, before bytes go either way. */
    void (*served)(struct connection_news *news);
    /* Called when it has ended before that. */
    void (*failed)(struct connection_news *news, enum bruma_reason reason);
};

struct connection {
    struct list node; /* in worker_pod.connections */
    struct worker_pod *wp;
    bool inbound, opened;
    bool gateway;    /* it goes through one: the other end is in another network */
    bool opens_late; /* to telemetry, once the other end has said who it is; at the latest as it closes */
    struct quota quota;
    struct endpoint client;        /* who opened the connection */
    struct endpoint destination;   /* as the client dialed it */
    struct endpoint endpoint;      /* outbound: that of a service which was chosen; port 0: none was */
    struct tried_endpoints *tried; /* outbound: before it, until one serves; of connection/retry.c; or NULL */
    struct connection_news *news;  /* NULL: nobody waits, or it was told */
    struct flow flow;
    struct budget_account account; /* bytes that one side has not taken */
    char *strings;                 /* identity, baggage and authority that flow points to; one allocation */
    const char *peer_identity;     /* verified, of the other side; NULL in plaintext */
    /* With flow.same_node: the certificate in the name of which the other pod was let through; referenced. */
    struct tls_context *peer_certificate;
    enum policy_dry_run dry_run;   /* inbound: what was last said of dry-run policies */
    uint64_t policy_missing_since; /* inbound, live: loop_now(), 0: all its policies are known */
    /* Called on the worker's own thread: ends the connection now, from outside its own events. */
    void (*abort)(struct connection *connection, enum bruma_reason reason, const char *detail);
};

/* A new one of the pod, counted in its quota (and for inbound in the client's). abort: called as in the
 * struct, on the worker's own thread. */
void connection_init(struct connection *c, struct worker_pod *wp, bool inbound, const struct endpoint *client,
                     const struct endpoint *destination,
                     void (*abort)(struct connection *, enum bruma_reason, const char *));

/* All that a connection is goes to another struct: what was accepted becomes a stream, for one. from is no
 * connection any more. abort: as above, on the worker's own thread. */
void connection_move(struct connection *to, struct connection *from,
                     void (*abort)(struct connection *, enum bruma_reason, const char *));

/* What the flow is known by; flow.same_node is set before. Workloads and the service must be referenced for
 * the connection, which gives them back. peer_identity, baggage and authority are copied; each may be NULL.
 * -ENOMEM leaves the connection as it was (references included). */
int connection_describe(struct connection *c, const struct workload *source,
                        const struct workload *destination, const struct service *service,
                        const char *peer_identity, const char *baggage, const char *authority);

/* opened_total; after connection_describe(). actual: what is dialed (outbound) or arrived at (inbound
 * tunnel). */
void connection_open(struct connection *c, const struct endpoint *actual);

/* In place of connection_open(), where it comes later: what is dialed. */
void connection_dial(struct connection *c, const struct endpoint *actual);

/* Leaves the lists, writes the log line (an early deny if it was never opened and a reason is given). The
 * memory stays with the caller. */
void connection_close(struct connection *c, enum bruma_reason reason, const char *detail);

/* The other side is there: tells who waits for it. */
void connection_served(struct connection *c);

enum connection_verdict {
    CONNECTION_ALLOWED,
    CONNECTION_DENIED,
    CONNECTION_UNDECIDED, /* a policy that the workload names has not arrived */
};

/* Inbound: asks the policies. final: patience is over, the setting decides of what is undecided. If denied,
 * *ret_reason and detail say why; else they are not written. */
enum connection_verdict connection_authorize(struct connection *c, bool final, enum bruma_reason *ret_reason,
                                             char *detail, size_t size);

/* The worker that it lives on, never NULL; valid as long as the connection. */
static inline struct worker *connection_worker(const struct connection *c)
{
    return c->wp->worker;
}

#endif
