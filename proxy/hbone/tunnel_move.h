/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Tunnels that go to another process with their streams: bruma/handover.h, enum bruma_tunnel_field. A
 * worker's own thread, at the end of a turn, when all tunnels have been flushed.
 */
#ifndef PROXY_HBONE_TUNNEL_MOVE_H
#define PROXY_HBONE_TUNNEL_MOVE_H

#include "proxy/hbone/tunnel.h"
#include "proxy/wire/wire.h"
#include "proxy/worker/moving.h"

/* Why a tunnel stays where it is. */
enum tunnel_stays {
    TUNNEL_MOVES,
    /* for now: it may be asked again in a later turn */
    TUNNEL_STAYS_NOT_OPEN,    /* connect or handshake */
    TUNNEL_STAYS_NO_SETTINGS, /* the peer has not said its SETTINGS, or not acknowledged ours */
    TUNNEL_STAYS_OPENING,     /* one of its streams waits for its other end, or for an answer */
    TUNNEL_STAYS_IN_FRAME,    /* a frame that is too long to be kept, or has padding, is being received */
    TUNNEL_STAYS_UNREAD,      /* too many bytes wait for applications or for the peer */
    /* for good */
    TUNNEL_STAYS_ENDING,
    TUNNEL_STAYS_IDLE,   /* one of ours without streams: nothing is lost with it */
    TUNNEL_STAYS_INSIDE, /* it goes through a gateway's tunnel, with which it moves */
    TUNNEL_STAYS_OWN,    /* of the proxy's own pod */
    TUNNEL_STAYS_TABLE,  /* the peer has filled a header table, which it was not to have */
    TUNNEL_STAYS_STATE,  /* the session is not as it should be by our own count */
    TUNNEL_STAYS_MEMORY,
};

/* In words, for the log; a literal, never NULL. */
const char *tunnel_stays_text(enum tunnel_stays why);
/* Whether it is worth to ask again. */
static inline bool tunnel_stays_for_now(enum tunnel_stays why)
{
    return why >= TUNNEL_STAYS_NOT_OPEN && why <= TUNNEL_STAYS_UNREAD;
}

/* It shall be moved, and may be told to stand still: moving hears of its end. */
void tunnel_offer(struct tunnel *tunnel, struct moving *moving);
/* Nothing comes of it, and it has not stood still. */
void tunnel_withdraw(struct tunnel *tunnel);

/* Sockets of a unit: its own, then one of each stream that is open. Writing makes them no more. */
size_t tunnel_move_fds(const struct tunnel *tunnel);

/*
 * One that was offered, as a field of a unit, with its sockets (as many as tunnel_move_fds()), which stay its
 * own. The unit must be secret: it has keys in it. It stands still from here on, until one of the two below
 * is called, or something happens to it: then it goes on here by itself, and moving.gone says so, as at its
 * end. What it had to say but DATA has been sent. Otherwise it says why it stays, and it goes on; then the
 * unit has nothing of it.
 */
enum tunnel_stays tunnel_write(struct tunnel *tunnel, struct wire_writer *unit, int *fds);
/* A part of that: neither its sockets nor its timers do anything. */
void tunnel_stand_still(struct tunnel *tunnel);
/* It goes on here. */
void tunnel_thaw(struct tunnel *tunnel);
/* It is another process's: nothing of its sockets is changed by its end here. */
void tunnel_release(struct tunnel *tunnel);

/* One that has come, and is not in force. */
struct tunnel_arrival;

/* len bytes of data: of the field. Takes the sockets, unless it fails. begin: of tunnel_accept(). 0, or
 * -errno with why in error. */
int tunnel_arrival_read(struct worker *w, const uint8_t *data, size_t len, int fds[], size_t fds_len,
                        tunnel_request_fn begin, struct tunnel_arrival **ret, char *error, size_t error_size);
/* It is the worker's from here on, without one byte said for it; a pod that has gone meanwhile ends it. One
 * of ours takes no new streams. arrival is taken. */
void tunnel_arrive(struct worker *w, struct tunnel_arrival *arrival);
/* It is another process's still: its sockets are closed here, and nothing else is done with them. */
void tunnel_arrival_free(struct tunnel_arrival *arrival);

#endif
