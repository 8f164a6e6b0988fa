/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the kernel tells of direct connections becomes what the proxy's own way would have said of them: lines
 * of the access log, metrics, and the list of those that live. All of it belongs to the reader's thread, a
 * registered reader of the mesh; counters are for any.
 */
#ifndef PROXY_FLOWS_ACCOUNT_H
#define PROXY_FLOWS_ACCOUNT_H

#include "bruma/direct.h"
#include "proxy/flows/flow_pods.h"
#include "proxy/telemetry/telemetry.h"

/* A live one. */
struct flow_record {
    struct flow_record *next; /* in its bucket */
    uint64_t socket_cookie, netns_cookie;
    struct flow flow; /* its workloads and service are referenced; bytes: what has been counted */
    bool inbound;     /* the pod was called */
    bool adopted;     /* found among those that live, without its first event */
    bool late;        /* it was cut off when it was answered (ESTALE) */
    bool elsewhere;   /* what it has carried until now was counted by who read before */
    unsigned missed;  /* times in a row that neither the kernel nor the map had it */
};

/* Who judges connections that are let in. */
struct flows_judge {
    /* Called for one by BRUMA_DIRECT_PASS, on the reader's thread. */
    void (*opened)(void *data, uint64_t socket_cookie, const struct bruma_flow *flow);
    /* Called likewise for one that was cut off from the network, and is to be ended. pod: whose it is, for
     * the call. */
    void (*condemned)(void *data, struct pod *pod, uint64_t socket_cookie, const struct bruma_flow *flow);
    void *data;
};

struct account {
    struct telemetry *telemetry;
    const struct state *state;
    struct flow_pods *pods;
    struct flows_judge judge; /* zeroed: nobody */
    uint64_t random;          /* not 0 */
    uint64_t since;           /* nanoseconds, CLOCK_MONOTONIC: this process reads all events from here on */
    struct flow_record **buckets;
    size_t buckets_len;
    /* relaxed atomics from here on */
    uint64_t live;
    uint64_t events[BRUMA_FLOW_REFUSED + 1]; /* by kind; 0: that cannot be understood */
    uint64_t strangers;                      /* events of pods that are not known */
    uint64_t endless;                        /* connections that are gone, and whose last event was lost */
};

/* The rest is the caller's to set, before the first event. 0 or -ENOMEM. */
int account_init(struct account *account);
/* Forgets all that live; they are not told to have ended. Harmless for a zeroed one. */
void account_clear(struct account *account);

/* One event as it was read; anything may be in there. */
void account_event(struct account *account, const void *event, size_t len);
/* One of which no event was read here lives: it is open, and it and its bytes until now were counted by who
 * read before. */
void account_adopt(struct account *account, uint64_t socket_cookie, const struct bruma_flow *flow);
/* It lives, or NULL. */
struct flow_record *account_find(struct account *account, uint64_t socket_cookie);
/* What a live one has carried by now (bytes of and for the pod): what is more than before is counted. */
void account_progress(struct flow_record *record, uint64_t sent, uint64_t received);
/* It is gone, and nobody will tell its end. */
void account_lost(struct account *account, struct flow_record *record);
/* fn(data, record) is called for each that lives, before this returns; it may take that one out by
 * account_lost(). */
void account_each(struct account *account, void (*fn)(void *data, struct flow_record *record), void *data);

#endif
