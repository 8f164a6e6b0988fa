/* SPDX-License-Identifier: Apache-2.0 */
/* What each proxy is to know about each pod, and the sending of it. Private to proxy_server.c and
 * proxy_assignments.c. */
#ifndef AGENT_PROXIES_PROXY_ASSIGNMENTS_H
#define AGENT_PROXIES_PROXY_ASSIGNMENTS_H

#include "agent/proxies/pod_assignment.h"
#include "agent/proxies/proxy_server.h"

/* Milliseconds that a proxy may leave messages unacknowledged, or take to introduce itself. */
#define PROXY_ANSWER_MAX 10000

enum proxy_state {
    PROXY_NEW,
    PROXY_OFFERING,
    PROXY_SYNCING,
    PROXY_NOT_READY, /* has its snapshot, but has not heard of its control plane */
    PROXY_SERVING,
    PROXY_REPLACED, /* got drain, and serves again if nobody else is left */
    PROXY_ENDING,   /* of its own accord */
};
enum proxy_command {
    COMMAND_NONE,
    COMMAND_ADD,
    COMMAND_DNS,
    COMMAND_ENDING,
    COMMAND_KEEP,
    COMMAND_DRAIN,
    COMMAND_DELETE
};
/* What a proxy makes of its pod. */
enum assignment_state {
    ASSIGNMENT_PENDING,
    ASSIGNMENT_SERVING,
    ASSIGNMENT_FAILED,
    ASSIGNMENT_DRAINING,
    ASSIGNMENT_DRAINED
};

struct local_proxy {
    struct list node; /* oldest process first */
    struct proxy_server *server;
    struct local_connection *connection;
    enum proxy_state state;
    char version[64];
    char compliance[160];  /* its policy and cryptographic module, as it says it; "": none */
    uint64_t connected_at; /* loop time */
    uint64_t born;         /* start of its process, in clock ticks; 0: not known */
    struct pod_assignments assignments;
    uint64_t seq, snapshot_seq;
    uint64_t resume_seq; /* of a resume that is not acknowledged, or 0 */
    uint64_t take_seq;   /* of the last take, or 0 */
    bool setup_sent, drain_wanted, resume_wanted, serving_wanted;
    bool cannot_resume; /* it has refused to */
    bool takes_deliveries, takes_dns, takes_endings, takes_direct, takes_serving, hands_over;
    bool direct_wanted; /* it has not got direct, or not the last word */
    bool node_wanted;   /* the same, of direct-node */
    bool not_ready;
    unsigned unanswered;
    bool takes_over;  /* connections of another one may come, and it has not said how that ended */
    bool waits;       /* it could serve, and another one takes over just now */
    bool gives_later; /* it was replaced, and who took its place could not take from it, or not all */
    const struct local_proxy *gives_to; /* who has not said how that ended; or NULL */
    int give_fd;                        /* to be sent by hand-over, or -1 */
    cJSON *handed_over;                 /* as it has said it; or NULL */
    int take_fds[2];                    /* the same by take: the other end, and the process before */
    struct loop_timer answer;
};

struct proxy_assignment {
    struct pod_assignment base;
    struct local_proxy *proxy;
    enum proxy_command pending;
    enum assignment_state state;
    bool told_ending; /* since the last addition */
    uint64_t seq;     /* of the last message about it, 0: none was sent */
    enum bruma_reason reason;
    char error[256];
};

struct proxy_server {
    struct proxies proxies;
    struct loop *loop;
    const struct agent_settings *settings;
    const struct pods *pods;
    struct proxy_maps maps;
    struct proxies_events events;
    struct list list;
    struct loop_timer resume; /* nobody may be serving any more */
    struct loop_timer hurry;  /* for those that wait for another one's hand-over to end */
    struct loop_timer adopted;
    uint64_t adopt_until; /* loop_now(): a proxy of before may still bring listeners back */
};

/* The proxy's, or NULL: it has none for the pod. */
struct proxy_assignment *assignment_of(const struct local_proxy *proxy, const struct pod *pod);
/* The proxy's own, made if there is none; NULL: no memory. */
struct proxy_assignment *assignment_get(struct local_proxy *proxy, struct pod *pod);
/* What is to be sent of it, in place of what was not sent yet; NONE: nothing. */
void assignment_set_pending(struct proxy_assignment *assignment, enum proxy_command command);

/* Sends what is pending as long as the socket takes it. */
void proxy_push(struct local_proxy *proxy);
void proxy_server_adopted(struct loop_timer *timer); /* of proxy_server.adopted */
/* The youngest process that has acknowledged its snapshot: the server's; or NULL. */
struct local_proxy *proxy_server_find_serving(const struct proxy_server *server);
/* The pod is one that a proxy shall serve now. */
bool pod_is_served(const struct pod *pod);

extern const struct proxies_ops proxy_server_ops;

#endif
