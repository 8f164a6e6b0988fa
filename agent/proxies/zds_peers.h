/* SPDX-License-Identifier: Apache-2.0 */
/* Stock proxies, and what each is to know of each pod: shared by the files zds_*.c of this folder, each of
 * which calls only those below it: zds_server.c, zds_accept.c, zds_assignments.c, zds_peer.c. */
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
    const struct zds_peer_events *peer_events;
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

/* ---- zds_peer.c: the conversation with one proxy. It tells by the functions of struct zds_peer_events.
 * ---- */

/* All are called on the loop's thread, from inside what the peer does. */
struct zds_peer_events {
    /* Called once it wants to hear of pods. */
    void (*greeted)(struct zds_peer *peer);
    /* Called with the answer to the last message about the assignment; error is NULL for yes. */
    void (*answered)(struct zds_assignment *assignment, enum zds_command asked, const char *error);
    /* Called once it has become the one that serves. */
    void (*took_over)(struct zds_peer *peer);
    /* Called at its end: its assignments are to be freed; it is itself, later. */
    void (*closed)(struct zds_peer *peer);
};

/* Takes the connected socket and pidfd, but not on failure, which is NULL: no memory, or no room in epoll.
 * The server owns it. */
struct zds_peer *zds_peer_new(struct zds_server *server, int fd, pid_t pid, int pidfd);
/* Sends the next message unless one waits for its answer. */
void zds_peer_push(struct zds_peer *peer);
/* Disconnects it; it is freed at the end of the turn. */
void zds_peer_close(struct zds_peer *peer);
/* What is to be sent of it, in place of what was not sent yet; NONE: nothing. */
void zds_assignment_set_pending(struct zds_assignment *assignment, enum zds_command command);
/* The youngest process that has acknowledged its snapshot: the server's; or NULL. */
struct zds_peer *zds_find_serving(const struct zds_server *server);

/* ---- zds_assignments.c: what each proxy is to know of each pod, and what becomes of it ---- */

extern const struct zds_peer_events zds_assignments_events;

/* The timer of the server that looks whether pods which leave have connections; not armed. */
void zds_assignments_init(struct zds_server *server);
/* What the proxy is to know of the pod: finds it or makes it; NULL: no memory. It lives until it is freed,
 * with its peer at the latest. */
struct zds_assignment *zds_assignment_get(struct zds_peer *peer, struct pod *pod);
/* The same, the peer's own, if it is there; or NULL. */
struct zds_assignment *zds_assignment_find(const struct zds_peer *peer, const struct pod *pod);
/* Forgets it; an answer about it that is still to come counts for nothing. */
void zds_assignment_free(struct zds_assignment *assignment);
/* True if proxies are to serve the pod as it stands. */
bool zds_is_served(const struct pod *pod);
/* The proxy shall be told of the pod, with the next push. */
void zds_assignment_add(struct zds_assignment *assignment);
/* The pod leaves; the proxy is told once nothing lives there. */
void zds_assignment_drain(struct zds_assignment *assignment);
/* Puts the listeners that the proxy has in the pod into its slots. 0, -ENOENT: not all are there, -EBUSY:
 * there are two of one kind, or -errno; with the reason in error. */
int zds_assignment_take_listeners(struct zds_assignment *assignment, struct steer_error *error);

/* ---- zds_accept.c: who connects ---- */

/* Opens the socket that the settings name. 0 or -errno. */
int zds_accept_open(struct zds_server *server);
/* Stops accepting, and removes the socket. */
void zds_accept_close(struct zds_server *server);

#endif
