/* SPDX-License-Identifier: Apache-2.0 */
/* Relays that go to another process: bruma/handover.h, enum bruma_relay_field. A worker's own thread, at the
 * end of a turn. */
#ifndef PROXY_CONNECTION_RELAY_MOVE_H
#define PROXY_CONNECTION_RELAY_MOVE_H

#include "proxy/wire/wire.h"
#include "proxy/worker/connection_unit.h"
#include "proxy/worker/moving.h"

#define RELAY_MOVE_FDS 2 /* sockets of a unit: front, back */

struct relay;

/* Whose connection it is; NULL: no relay's, or that of the other pod of a pair. */
struct relay *relay_of(struct connection *c);
/* Whether it is that of the other pod of a pair, which goes along with the relay. */
bool relay_is_other(const struct connection *c);

/* It shall be moved, and may be told to stand still: moving hears of its end. */
void relay_offer(struct relay *relay, struct moving *moving);
/* Nothing comes of it, and it has not stood still. */
void relay_withdraw(struct relay *relay);

/*
 * One that was offered, as a field of a unit, with its sockets, which stay its own. It stands still from here
 * on, until one of the two below is called, or it ends. NULL, or why it cannot be moved, and it goes on;
 * valid for ever.
 */
const char *relay_write(struct relay *relay, struct wire_writer *unit, int fds[RELAY_MOVE_FDS]);
/* True while it is connecting. */
bool relay_connects(const struct relay *relay);
/* Of one that is connecting: its connection is to be decided anew, and what was begun is given up. Returns
 * the socket of the front, or -1, as pending_let_go(). */
int relay_let_go(struct connection *connection, struct connection_past *ret);
/* It goes on here. */
void relay_thaw(struct relay *relay);
/* It is another process's: nothing of its sockets is changed by its end here. */
void relay_release(struct relay *relay);

/* One that has come, and is not in force. */
struct relay_arrival;

/* len bytes of data: of the field. Takes the sockets, unless it fails. 0, or -errno with why in error. */
int relay_read(struct worker *w, const uint8_t *data, size_t len, int fds[], size_t fds_len,
               struct relay_arrival **ret, char *error, size_t error_size);
/* It is the worker's from here on; a pod that has gone meanwhile ends it. arrival is taken. */
void relay_arrive(struct worker *w, struct relay_arrival *arrival);
/* It is another process's still: its sockets are closed here, and nothing else is done with them. */
void relay_arrival_free(struct relay_arrival *arrival);

#endif
