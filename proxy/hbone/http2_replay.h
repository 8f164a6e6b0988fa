/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A session of nghttp2 that goes on where another one has stopped. nghttp2 cannot be given its state, so a
 * fresh session is led there: it is fed frames as the peer might have sent them, and says others, which are
 * thrown away. Windows are raised as far as they go for this, and get their real values last.
 *
 * Headers are of no use to either side's table: those that are fed are not indexed, those that are said are
 * not either, and the peer's SETTINGS are fed with a table of size 0 first, so that the next real ones empty
 * the table that the peer has of us.
 */
#ifndef PROXY_HBONE_HTTP2_REPLAY_H
#define PROXY_HBONE_HTTP2_REPLAY_H

#include "proxy/hbone/http2_state.h"

struct http2_replay;

/* Makes the tunnel's session, in which each stream of the state is its struct stream's, with its DATA put off
 * until tunnel_stream_readable(). The callbacks of the tunnel do nothing meanwhile. 0, -ENOMEM, or -EBADMSG:
 * no session can be in such a state, and there is none. */
int http2_replay(struct tunnel *tunnel, const struct http2_state *state);

/* For the callbacks, of a tunnel whose replay is set. stream: of the data provider. Returns how many bytes,
 * or an error of nghttp2, as a data source does. */
ssize_t http2_replay_read(struct http2_replay *replay, const struct stream *stream, size_t length,
                          uint32_t *flags);

#endif
