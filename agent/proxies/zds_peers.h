/* SPDX-License-Identifier: Apache-2.0 */
/* What each stock proxy is to know about each pod. Private to zds_server.c, zds_peer.c and
 * zds_assignments.c. */
#ifndef AGENT_PROXIES_ZDS_PEERS_H
#define AGENT_PROXIES_ZDS_PEERS_H

#include "agent/proxies/pod_assignment.h"
#include "agent/proxies/zds_server.h"
#include "lib/accept_rest.h"
#include "lib/seqpacket_listener.h"

enum zds_peer_state { ZDS_GREETING, ZDS_SYNCING, ZDS_SERVING };
enum zds_command { ZDS_COMMAND_NONE, ZDS_COMMAND_ADD, ZDS_COMMAND_DEL, ZDS_COMMAND_RESTART };
enum zds_assignment_state {
    ZDS_ASSIGNMENT_PENDING,
    ZDS_ASSIGNMENT_SERVING,
    ZDS_ASSIGNMENT_FAILED,
    ZDS_ASSIGNMENT_DRAINING
};

struct zds_server {
    struct proxies proxies;
    struct loop *loop;
    const struct agent_settings *settings;
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
    struct pod_assignments assignments;
    bool asked; /* a message waits for its answer: about a pod, or that the snapshot has ended */
    bool asked_snapshot, closed;
    int send_error;                          /* 0 or -errno: it is about to be disconnected */
    struct zds_assignment *asked_assignment; /* NULL: it is gone, or the snapshot */
    enum zds_command asked_command;
};

struct zds_assignment {
    struct pod_assignment base;
    struct zds_peer *peer;
    char *account; /* as it was told of last, NULL: not yet */
    enum zds_command pending;
    enum zds_assignment_state state;
    bool sent;            /* an add was sent */
    bool looking;         /* for its listeners: not all were there, or some twice */
    unsigned looks;       /* in a row that found them so */
    uint64_t drain_until; /* loop_now() */
    enum bruma_reason reason;
    char error[256];
};

extern const struct proxies_ops zds_server_ops;
/* Closes the socket and all peers. */
void zds_server_free(struct zds_server *server);

/* ---- zds_peer.c: the conversation with one proxy ---- */

/* Takes the connected socket and pidfd, but not on failure, which is NULL: no memory, or no room in epoll.
 * The server owns it. */
struct zds_peer *zds_peer_new(struct zds_server *server, int fd, pid_t pid, int pidfd);
/* Sends the next message unless one waits for its answer. */
void zds_peer_push(struct zds_peer *peer);
/* Disconnects it; it is freed at the end of the turn. */
void zds_peer_close(struct zds_peer *peer);

/* ---- zds_assignments.c ---- */

/* The peer's own, made if there is none; NULL: no memory. */
struct zds_assignment *zds_assignment_get(struct zds_peer *peer, struct pod *pod);
/* Forgets it; an answer about it that is still to come counts for nothing. */
void zds_assignment_free(struct zds_assignment *assignment);
/* What is to be sent of it, in place of what was not sent yet; NONE: nothing. */
void zds_assignment_set_pending(struct zds_assignment *assignment, enum zds_command command);
/* All pods that the proxy should know: it has greeted. */
void zds_assignments_begin(struct zds_peer *peer);
/* The answer to the last message about the assignment; error is NULL for yes. */
void zds_assignment_answered(struct zds_assignment *assignment, enum zds_command asked, const char *error);
/* Puts the listeners of all pods that the peer serves into their slots: it has become the serving one. */
void zds_assignments_take_over(struct zds_peer *peer);
void zds_assignments_look_again(struct loop_timer *timer); /* of peer->look_again */
void zds_assignments_drain_look(struct loop_timer *timer); /* of server->drain_look */

/* The youngest process that has acknowledged its snapshot: the server's; or NULL. */
struct zds_peer *zds_find_serving(const struct zds_server *server);

#endif
