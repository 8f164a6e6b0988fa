/* SPDX-License-Identifier: Apache-2.0 */
/* Where a connection goes: contract sections 4 (outbound) and 5.1 (destination checks of inbound tunnels).
 * Reader side of state.h. */
#ifndef PROXY_ROUTE_ROUTE_H
#define PROXY_ROUTE_ROUTE_H

#include "bruma/mesh.h"
#include "bruma/reasons.h"
#include "proxy/state/state.h"

#define ROUTE_AUTHORITY_LEN 300

struct endpoint_filter;
struct gateway_reference;

enum route_kind {
    ROUTE_FAILED,      /* reason says why: close the connection (early deny) */
    ROUTE_PASSTHROUGH, /* plain TCP to the original destination, nothing known about it */
    ROUTE_TCP,         /* plain TCP to a known workload that speaks no HBONE */
    ROUTE_HBONE,       /* tunnel to target */
};

/* The waypoints and gateways that a decision has looked for, valid until the next quiescent state. */
struct route_needs {
    const struct gateway_reference *all[4];
    unsigned len;
};

struct route {
    enum route_kind kind;
    enum bruma_reason reason;
    struct endpoint target;                 /* what to dial: ip:15008, waypoint:port, or the plain endpoint */
    char authority[ROUTE_AUTHORITY_LEN];    /* of the CONNECT request, and of both where there is a gateway */
    const struct workload *upstream;        /* referenced for the caller; NULL for ROUTE_PASSTHROUGH */
    const struct service *service;          /* the destination service, referenced, or NULL */
    const struct service *expected_service; /* whose SANs are accepted beside the upstream's identity (behind
                                               a gateway these alone); referenced, or NULL */
    const struct workload *gateway; /* the upstream is in another network, and target is this gateway to it;
                                       referenced, or NULL */
    const struct service
        *gateway_service; /* whose SANs are accepted beside the gateway's identity; referenced, or NULL */
    uint16_t application_port; /* the tunnel is to its target itself, and asks for this port of it; else 0 */
    bool via_waypoint;
    const char
        *hostname;     /* the upstream's, if target has no address yet: route_resolved() follows; or NULL */
    bool prefers_ipv4; /* of several addresses of the hostname, those of this family */
    struct endpoint
        endpoint; /* which of a service's (or of a waypoint's); port 0: it was not chosen among such */
    struct route_needs needs;
    char detail[128]; /* for ROUTE_FAILED: names the service, waypoint ... */
};

/* A port that the proxy has for itself in each pod, and that no connection may have as its destination. */
static inline bool route_is_own_port(uint16_t port)
{
    return port == BRUMA_PORT_OUTBOUND || port == BRUMA_PORT_PLAINTEXT || port == BRUMA_PORT_HBONE;
}

/* Fills ret whole; the caller gives it back by route_release(). source: the local workload of the pod.
 * random: state of a cheap generator owned by the caller (xorshift); the same one leads to the same route,
 * while the mesh stays the same. filter: of endpoints.h, or NULL. */
void route_outbound(const struct state *state, const struct workload *source,
                    const struct endpoint *destination, uint64_t *random,
                    const struct endpoint_filter *filter, struct route *ret);
/* True if a waypoint or a gateway has been looked for by its name, or would be for other clients: changes of
 * that touch none of the destination's addresses. */
bool route_refers(const struct route *route);
/* The route had a hostname: it goes to this address of it. */
void route_resolved(struct route *route, const struct addr *addr);
/* Drops its references; harmless a second time, and for a zeroed one. */
void route_release(struct route *route);

/* True if the certificate's identity is one that the route expects. aliases: trust domains that are one with
 * `own`, the mesh's; or NULL. */
bool route_expects(const struct workload *upstream, const struct service *expected_service,
                   const struct trust_domains *aliases, const char *own, const char *identity);
/* Equal for routes that expect the same identities: part of the pool's key. */
uint64_t route_expected_hash(const struct workload *upstream, const struct service *expected_service);
/* The same of tunnels inside of a gateway's: the service's identities, the authority that is asked for, and
 * outer, the hash of what the gateway's own tunnel expects. */
uint64_t route_inner_hash(const struct service *expected_service, const char *authority, uint64_t outer);

struct inbound_target {
    struct endpoint target;        /* to connect to: always the arrival address */
    struct endpoint original;      /* as the PROXY header names it */
    bool proxy_header;             /* application tunnel with PROXY protocol */
    const struct service *service; /* for telemetry, referenced, or NULL */
    int status;                    /* 200, or the HTTP status of the refusal */
    enum bruma_reason reason;
};

/*
 * Contract 5.1 steps 3, 5 and 6: authority as received, arrival: local address of the tunnel's connection.
 * Sets status 400 for an authority that cannot be parsed or names another pod (an IPv4-mapped form too), 503
 * for an unknown hostname, an unresolvable port or one of the proxy's own ports. forwarded: value of the
 * header or NULL (its host= chooses the service for telemetry). Fills ret whole; its service is a reference
 * for the caller.
 */
void route_inbound(const struct state *state, const struct workload *local, const struct endpoint *arrival,
                   const char *authority, size_t authority_len, const char *forwarded, size_t forwarded_len,
                   struct inbound_target *ret);

#endif
