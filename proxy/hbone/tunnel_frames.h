/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The peer's bytes on their way into nghttp2, frame by frame. nghttp2 passes over DATA for streams that are
 * over without a word, for it may have been on its way when we ended them. Where the peer has ended the
 * stream itself it is an error (RFC 9113, section 5.1).
 */
#ifndef PROXY_HBONE_TUNNEL_FRAMES_H
#define PROXY_HBONE_TUNNEL_FRAMES_H

#include "proxy/hbone/tunnel.h"

/* A negative error of nghttp2, or 0: it has taken everything. DATA stays where it is: what nghttp2 tells of
 * it points into data. */
int tunnel_frames_receive(struct tunnel *tunnel, const uint8_t *data, size_t len);
/* Whether nghttp2 holds a part of a frame that is not DATA, which happens where it is too long to be kept. */
bool tunnel_frames_in_the_middle(const struct tunnel *tunnel);
/* What is kept came from another process: the walk goes on behind it. 0, or -EBADMSG: it is no beginning of a
 * unit. */
int tunnel_frames_resume(struct tunnel *tunnel);
/* What is kept is forgotten. */
void tunnel_frames_free(struct tunnel *tunnel);

/* A stream is over. */
void tunnel_frames_closed(struct tunnel *tunnel, int32_t id, bool by_peer);
/* The peer has reset the stream. Where it was over already, by an answer that the reset has crossed, the peer
 * has ended it too now. */
void tunnel_frames_reset(struct tunnel *tunnel, int32_t id);
/* In the tunnel's ring, valid until another stream closes; NULL: it is not one of the last ones. */
const struct closed_stream *tunnel_frames_find_closed(const struct tunnel *tunnel, int32_t id);

#endif
