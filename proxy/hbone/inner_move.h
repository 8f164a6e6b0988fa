/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Tunnels inside of a gateway's that go to another process together with it: bruma/handover.h, enum
 * bruma_inside_field. What is here is between the two tunnels. A worker's own thread.
 */
#ifndef PROXY_HBONE_INNER_MOVE_H
#define PROXY_HBONE_INNER_MOVE_H

#include "proxy/hbone/inner.h"
#include "proxy/wire/wire.h"

/* ---- away ---- */

/* Its tunnel, valid for this turn; NULL: it has let go, and the rest ends. */
struct tunnel *inner_tunnel(const struct inner *inner);
/* Whether neither side is about to end it. */
bool inner_is_whole(const struct inner *inner);
/* One that has no streams, or ends, holds what is beside it no longer: nothing is lost with it. */
void inner_give_up(struct stream *carrier);
/* How many bytes wait between the two. */
size_t inner_waiting(const struct inner *inner);
/* Appends these. */
void inner_write(const struct inner *inner, struct wire_writer *inside);
/* Each is a part of stream_freeze(), stream_thaw() and stream_release() of the stream that carries it. */
void inner_freeze(struct inner *inner);
/* See there. */
void inner_thaw(struct inner *inner);
/* See there. It is taken. */
void inner_release(struct inner *inner);

/* ---- here ---- */

/* What was read of one; the tunnel's field is of what was read. */
struct inner_arrival {
    struct wire_field tunnel;
    uint8_t *bytes[2]; /* in, out */
    size_t len[2];
};

/* Of a field BRUMA_STREAM_INSIDE. 0 and ret is the caller's, or -EBADMSG, -EPROTONOSUPPORT: a field is not
 * known here, -ENOMEM. */
int inner_arrival_read(struct inner_arrival *ret, const struct wire_field *field);
/* Nothing comes of it. May be repeated. */
void inner_arrival_clear(struct inner_arrival *arrival);
/* Between the two from here on, with what waits there; the arrival is empty then. -ENOMEM. */
int inner_arrive(struct stream *carrier, struct tunnel *tunnel, struct inner_arrival *arrival);

#endif
