/* SPDX-License-Identifier: Apache-2.0 */
/* What each stock proxy is to know about each pod. Private to zds_server.c, zds_peer.c and zds_views.c. */
#ifndef AGENT_PROXIES_ZDS_PEERS_H
#define AGENT_PROXIES_ZDS_PEERS_H

#include "agent/proxies/pod_view.h"
#include "agent/proxies/zds_server.h"
#include "lib/accept_rest.h"
#include "lib/seqpacket_listener.h"

enum zds_peer_state { ZDS_GREETING, ZDS_SYNCING, ZDS_SERVING };
enum zds_wish { ZDS_WISH_NOTHING, ZDS_WISH_ADD, ZDS_WISH_DEL, ZDS_WISH_RESTART };
enum zds_view_state { ZDS_VIEW_PENDING, ZDS_VIEW_SERVING, ZDS_VIEW_FAILED, ZDS_VIEW_DRAINING };

struct zds_server {
    struct proxies proxies;
    struct loop *loop;
    const struct agent_config *config;
    const struct pods *pods;
    struct proxy_cgroups *cgroups;
    struct proxies_events events;
    struct seqpacket_listener listener;
    struct accept_rest rest;
    struct loop_timer accept_again, drain_look;
    uint64_t refused_at; /* loop time when a refusal was logged last */
    int peers_len;
    struct list peers; /* oldest process first */
};

struct zds_peer {
    struct list node;
    struct zds_server *server;
    struct loop_watch socket;
    struct loop_timer deadline, look_again;
    struct steer_process process;
    enum zds_peer_state state;
    uint64_t born; /* start of the process, in clock ticks; 0: not known */
    uint64_t connected_at;
    struct pod_views views;
    bool asked; /* a message waits for its answer: about a pod, or that the snapshot has ended */
    bool asked_snapshot, closed;
    int send_error;              /* 0 or -errno: it is about to be disconnected */
    struct zds_view *asked_view; /* NULL: it is gone, or the snapshot */
    enum zds_wish asked_wish;
};

struct zds_view {
    struct pod_view base;
    struct zds_peer *peer;
    char *account; /* as it was told of last, NULL: not yet */
    enum zds_wish wish;
    enum zds_view_state state;
    bool told;            /* an add was sent */
    bool looking;         /* for its listeners: not all were there, or some twice */
    unsigned looks;       /* in a row that found them so */
    uint64_t drain_until; /* loop time */
    enum bruma_reason reason;
    char error[256];
};

extern const struct proxies_ops zds_server_ops;
void zds_server_free(struct zds_server *server);

/* ---- zds_peer.c: the conversation with one proxy ---- */

/* Takes the connected socket. NULL: no memory. */
struct zds_peer *zds_peer_new(struct zds_server *server, int fd, pid_t pid, int pidfd);
/* Sends the next message unless one waits for its answer. */
void zds_peer_push(struct zds_peer *peer);
void zds_peer_close(struct zds_peer *peer);

/* ---- zds_views.c ---- */

struct zds_view *zds_view_get(struct zds_peer *peer, struct pod *pod); /* NULL: no memory */
void zds_view_free(struct zds_view *view);
void zds_view_wish(struct zds_view *view, enum zds_wish wish);
/* All pods that the proxy should know: it has greeted. */
void zds_views_begin(struct zds_peer *peer);
/* The answer to the last message about the view; error is NULL for yes. */
void zds_view_answered(struct zds_view *view, enum zds_wish asked, const char *error);
/* Puts the listeners of all pods that the peer serves into their slots: it has become the serving one. */
void zds_views_take_over(struct zds_peer *peer);
void zds_views_look_again(struct loop_timer *timer); /* of peer->look_again */
void zds_views_drain_look(struct loop_timer *timer); /* of server->drain_look */

/* The youngest process that has acknowledged its snapshot, or NULL. */
struct zds_peer *zds_find_serving(const struct zds_server *server);

#endif
