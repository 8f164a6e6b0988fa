/* SPDX-License-Identifier: Apache-2.0 */
/* What a relay is to the files relay*.c. A worker's own thread. */
#ifndef PROXY_CONNECTION_RELAY_INTERNAL_H
#define PROXY_CONNECTION_RELAY_INTERNAL_H

#include "proxy/connection/relay.h"
#include "proxy/connection/relay_side.h"
#include "proxy/worker/moving.h"

enum relay_index { FRONT = 0, BACK = 1 }; /* who connected to us, and whom we connected to */

struct relay {
    struct connection c;
    struct relay_side sides[2];
    struct loop_timer timer; /* connect; then half-close, or the last bytes of a side that has reset */
    uint64_t last_activity;
    size_t left;         /* of those last bytes, when the timer looked at them last */
    struct quota second; /* the descriptor of BACK */
    bool connected, closed, is_live;
    bool patient;           /* the timer is to try another endpoint, and not yet the limit */
    bool paired;            /* BACK is another pod's: the connection is that pod's too */
    relay_failed_fn failed; /* or NULL */
    struct moving *moving;  /* it is about to go to another process; or NULL */
    uint16_t delivery_port; /* inbound: of BACK; see socket_deliver() */
    struct connection in[]; /* paired: one, of BACK's pod */
};

/* One without connections and sockets, the caller's; NULL: no memory. failed: of relay_start(). */
struct relay *relay_new(int fd, bool paired, relay_failed_fn failed);
/* Each ends it, as struct connection says of abort: of its own connection, and of the other pod's. */
void relay_abort(struct connection *c, enum bruma_reason reason, const char *detail);
void relay_abort_other(struct connection *in, enum bruma_reason reason, const char *detail);
/* A connected one is watched again. It may end at once: there may be nothing left to watch with. */
void relay_go_on(struct relay *r);

/* The connection of the side's pod, never NULL: BACK's is another one in a pair. */
static inline struct connection *relay_side_connection(struct relay *r, int index)
{
    return r->paired && index == BACK ? r->in : &r->c;
}

#endif
