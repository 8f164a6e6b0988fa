/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What HTTP/2 has agreed upon on a tunnel's connection, apart from any library: enough to go on with it in
 * another session, of this process or another. A worker's own thread.
 */
#ifndef PROXY_HBONE_HTTP2_STATE_H
#define PROXY_HBONE_HTTP2_STATE_H

#include "proxy/hbone/tunnel.h"
#include "proxy/wire/wire.h"

#define HTTP2_SETTINGS_MAX 8 /* entries of a SETTINGS frame */

/* Bytes are int64_t where they may exceed a window of 31 bits on the way. */
struct http2_stream {
    int32_t id;
    bool local_end, remote_end; /* END_STREAM has left, or come */
    bool requested;             /* the peer's request is not answered */
    int64_t window;             /* WINDOW_UPDATEs of the peer, less DATA that was sent to it */
    int64_t received;           /* DATA that no WINDOW_UPDATE of ours has answered */
    int64_t unread;             /* of it, what the application has not taken */
    int64_t credit;             /* the same, of the connection's window */
    struct stream *stream;      /* whose it is */
};

struct http2_settings {
    nghttp2_settings_entry entries[HTTP2_SETTINGS_MAX];
    size_t len;
};

struct http2_state {
    bool server;
    struct http2_settings local;                    /* as the peer has acknowledged them */
    uint32_t unknown_windows[TUNNEL_SETTINGS_KEPT]; /* said after them, the oldest first */
    unsigned unknown_settings;
    struct http2_settings remote; /* the peer's, all acknowledged */
    int32_t send_window;          /* of the connection: what we may send */
    int32_t receive_window;       /* of the connection: what the peer may send when we have read all */
    int32_t receive_left;         /* and what it may send now */
    int32_t last_id;              /* the highest stream that the client has begun; 0: none */
    bool goaway_said, goaway_heard;
    int32_t said_last, heard_last;
    uint8_t rest_header[9]; /* of a DATA frame of which so many bytes are still to come */
    uint32_t rest;
    struct http2_stream *streams; /* open, by ascending ids; the owner's */
    size_t streams_len;
};

/* What the tunnel's session, whose frames have all been sent, has in it; streams are allocated. 0 or
 * -ENOMEM. */
int http2_state_of(const struct tunnel *tunnel, struct http2_state *ret);
/* Whether the tunnel's session is just as the state says. */
bool http2_state_matches(const struct tunnel *tunnel, const struct http2_state *state);
/* Frees the streams. */
void http2_state_clear(struct http2_state *state);

/* Writes all but the streams, as enum bruma_http2_field. */
void http2_state_write(const struct http2_state *state, struct wire_writer *writer);
/* Reads it; the streams are the caller's to add. 0, -EBADMSG, or -EPROTONOSUPPORT: a field is not known. */
int http2_state_read(struct http2_state *ret, const uint8_t *data, size_t len);

/* The value of the setting with that number in a list, as SETTINGS have it, or otherwise. */
uint32_t http2_setting(const struct http2_settings *settings, int32_t id, uint32_t otherwise);

#endif
