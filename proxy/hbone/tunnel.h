/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One HBONE tunnel: HTTP/2 over mutual TLS over one TCP connection (contract section 3), either end. Streams
 * are in stream.h.
 *
 * Everything that is to be sent waits for the end of the loop turn, so that the DATA of all streams shares
 * TLS records and one send().
 */
#ifndef PROXY_HBONE_TUNNEL_H
#define PROXY_HBONE_TUNNEL_H

#include <nghttp2/nghttp2.h>

#include "proxy/worker/connection.h"
#include "proxy/worker/handshakes.h"
#include "proxy/worker/worker.h"

struct http2_replay;
struct inner;
struct moving;
struct stream;

#define TUNNEL_CLOSED_KEPT   32
#define TUNNEL_SETTINGS_KEPT 4    /* of those that the peer has not acknowledged */
#define TUNNEL_UNSENT_FRAMES 1000 /* answers, mostly; as many as nghttp2 lets one kind of them be */

/* Called on the worker's thread when a peer's request begins: the stream that it becomes, added to the tunnel
 * by tunnel_add_stream(). NULL without memory. */
typedef struct stream *(*tunnel_request_fn)(struct tunnel *tunnel, int32_t id);

/* The peer's bytes on their way into nghttp2, which gets each frame but DATA whole, and HEADERS with their
 * CONTINUATION: a unit. So it never holds a part of anything but DATA. */
struct tunnel_frames {
    uint8_t header[9]; /* of the frame that is being received */
    uint8_t header_len;
    bool preface_seen;
    bool in_unit;                  /* a part of a unit has come */
    bool in_block;                 /* HEADERS whose CONTINUATION is still to come */
    bool passes;                   /* the unit goes to nghttp2 as it comes: DATA, or too long to be kept */
    bool in_data;                  /* it is DATA */
    uint32_t left;                 /* bytes of the frame that have not come */
    uint8_t *kept;                 /* the part of the unit that came with earlier reads, or NULL */
    size_t kept_len;               /* bytes */
    struct budget_account account; /* of kept; its share is the owner's to set */
};

/* A stream that is over. Data may still be under way to one that we have ended; to one that the peer has
 * ended there is none. */
struct closed_stream {
    int32_t id; /* 0: none */
    bool by_peer;
};

enum tunnel_state {
    TUNNEL_CONNECTING,  /* client: TCP; inside of a gateway's tunnel: the gateway */
    TUNNEL_HANDSHAKING, /* TLS */
    TUNNEL_OPEN,
    TUNNEL_DEAD, /* closed; freed at the end of the turn */
};

struct tunnel {
    struct list node;       /* in worker_pod.servers or .clients */
    struct list flush_node; /* in worker.flush */
    struct quota quota;
    struct handshake handshake; /* server, until it is open */
    uint64_t handshake_since;   /* telemetry_now() */
    struct worker_pod *wp;
    bool server;
    enum tunnel_state state;
    struct loop_watch watch;
    struct loop_timer timer; /* connect and handshake limit; then PING and idle */
    struct tls tls;
    bool tls_ready; /* tls was initialised */
    nghttp2_session *session;
    struct endpoint peer;            /* client: what we dialed; server: who called */
    struct endpoint arrival;         /* server: the address that was dialed */
    tunnel_request_fn begin_request; /* server */

    struct list streams; /* open */
    struct list held;    /* streams with bytes to read that wait until the socket takes more */
    unsigned streams_len;
    unsigned busy; /* depth of calls into nghttp2: the session must not be freed inside */
    bool closing;  /* to be closed once busy is 0 */
    bool lost;     /* nobody is there any more to be told something */
    enum bruma_reason close_reason;
    char close_detail[160];
    bool goaway;          /* no new streams: sent or received */
    bool refused_streams; /* the peer refused a stream: it is full for now */
    bool shutting_down;   /* server: first GOAWAY sent, the second follows */
    bool settings_sent;
    bool table_filled;  /* by the peer, after it was told to have no header table and has acknowledged it */
    bool table_none;    /* or it had said headers after that, and nothing was in its table */
    bool expired;       /* the peer's certificate: said and acted upon */
    bool untrusted;     /* server: the peer, by roots that have changed; the same */
    bool withdrawn;     /* server: untrusted, for the pod itself is no longer who it was */
    bool small_windows; /* announced */
    int32_t last_stream, reset_stream; /* highest id that the peer has used; that it has reset last */
    struct closed_stream closed[TUNNEL_CLOSED_KEPT]; /* the last ones, in a ring */
    unsigned closed_next;
    struct tunnel_frames frames;
    bool goaway_said, goaway_heard; /* GOAWAY has left, or come, and these are the last streams it named: */
    int32_t said_last, heard_last;
    uint32_t resets;       /* of streams, by the peer, that are not forgiven yet */
    uint64_t resets_since; /* loop_now() when some were forgiven last */
    bool settings_known;   /* the peer has acknowledged our first SETTINGS */
    /* Windows of streams in those of our SETTINGS that it has not acknowledged, the oldest first, and how
     * many these are; of more than the array holds nothing is known. */
    uint32_t unknown_windows[TUNNEL_SETTINGS_KEPT];
    unsigned unknown_settings;
    uint64_t last_received, ping_sent,
        idle_since; /* loop_now() milliseconds; ping_sent 0: none outstanding */
    size_t turn_bytes;
    int out_error;
    struct http2_replay *replay; /* the session is being made: what it says and hears is not real; or NULL */
    struct moving *moving;       /* it is about to go to another process; or NULL */
    bool frozen;                 /* and stands still for that */
    bool mute;                   /* DATA is put off */

    /* client */
    struct list queue; /* streams that wait for the tunnel to open */
    unsigned queue_len;
    uint64_t expected_hash, context_serial;
    unsigned
        announced_streams; /* by the same peer on another tunnel, until it says it on this one; 0: unknown */
    bool settings_received;
    struct inner *inner; /* what it goes through inside of a gateway's tunnel; NULL: its own socket */
};

/* Peers' connections, whose requests begin makes streams of. Takes fd. */
void tunnel_accept(struct worker_pod *wp, int fd, const struct endpoint *peer, const struct endpoint *arrival,
                   tunnel_request_fn begin);
/* The same of one that was accepted before: nobody asks whether there are too many. */
void tunnel_accept_again(struct worker_pod *wp, int fd, const struct endpoint *peer,
                         const struct endpoint *arrival, tunnel_request_fn begin);
/* Of a peer's connection in worker_pod.handshakes: it is to be accepted anew, and its socket, the caller's
 * from here on, has not been read from. -1: it has, and nothing has changed. */
int tunnel_accept_let_go(struct handshake *handshake, struct endpoint *ret_peer,
                         struct endpoint *ret_arrival);
/* Whether it waits for what its handshake needs; else it is a tunnel that has begun it. */
bool tunnel_accept_waits(const struct handshake *handshake);
/* Begins the handshake with such a peer. Takes fd, unless it fails: -errno. */
int tunnel_start_server(struct worker_pod *wp, int fd, const struct endpoint *peer,
                        const struct endpoint *arrival, struct tls_context *context, tunnel_request_fn begin);
/* Dials. Takes the references of expected. -errno if it could not begin. */
int tunnel_dial(struct worker_pod *wp, const struct endpoint *target, struct tls_context *context,
                const struct tls_expected *expected, uint64_t expected_hash, struct tunnel **ret);

/* Sends CONNECT for the stream, which must not be on a tunnel yet. 0 or -errno. */
int tunnel_request(struct tunnel *tunnel, struct stream *stream);
/* The stream waits until the tunnel is open. */
void tunnel_enqueue(struct tunnel *tunnel, struct stream *stream);
/* Server: a peer's request began. */
void tunnel_add_stream(struct tunnel *tunnel, struct stream *stream);
/* Answers; anything but 200 takes the stream off the tunnel. 0, or -ECONNRESET: the session does not take
 * it. */
int tunnel_respond(struct tunnel *tunnel, struct stream *stream, int status);
/* RST_STREAM with this code of HTTP/2; the stream is off the tunnel then. */
void tunnel_reset_stream(struct tunnel *tunnel, struct stream *stream, uint32_t code);
/* The stream's application has bytes (or its end) to read. */
void tunnel_stream_readable(struct tunnel *tunnel, struct stream *stream);
/* The application took bytes: the peer may send as many again. */
void tunnel_stream_consumed(struct tunnel *tunnel, struct stream *stream, size_t bytes);
/* So much came in for the stream, which is open: the credit of the tunnel. */
void tunnel_stream_received(struct tunnel *tunnel, struct stream *stream, size_t bytes);
/* Credit of the tunnel that the stream still has; call it before the stream leaves. */
void tunnel_stream_credit(struct tunnel *tunnel, struct stream *stream);
/* The client's side: DATA may flow (the answer was 200). 0, or -ECONNRESET: the session does not take it. */
int tunnel_stream_start(struct tunnel *tunnel, struct stream *stream);

/* The end of the peer's certificate may have come. From then on the tunnel takes no new streams; those that
 * are open go on. */
void tunnel_check_expired(struct tunnel *tunnel);
/* Its keys may have worn out: then it is drained. */
void tunnel_check_keys(struct tunnel *tunnel);
/* The wall clock has been set. */
void tunnel_clock_set(struct tunnel *tunnel);
/* Whether a peer's request comes too late, since the peer has expired or is not trusted any more; which is
 * said then. */
bool tunnel_refuses(struct tunnel *tunnel);
/* The pod's certificate is another, or what it trusts is: a server's tunnel whose peer is not trusted by it,
 * or by other roots, takes no new streams from then on; those that are open go on. */
void tunnel_check_trusted(struct tunnel *tunnel);
/* The lists of revoked certificates have changed. */
void tunnel_check_revoked(struct tunnel *tunnel);

/* The pod's level of worker_pod.level has changed. */
void tunnel_adapt(struct tunnel *tunnel);

/* Something is queued in the session: flush at the end of this turn. */
void tunnel_wants_flush(struct tunnel *tunnel);
/* Sends what is queued, at the end of a turn; may close the tunnel. */
void tunnel_flush(struct tunnel *tunnel);
/* While its frames are being received, and not inside of nghttp2: sends what waits. */
void tunnel_send_answers(struct tunnel *tunnel);

/* Streams that a client tunnel can still take. */
unsigned tunnel_capacity(const struct tunnel *tunnel);

/* The answer to our PING is here. */
void tunnel_ping_answered(struct tunnel *tunnel);

/* GOAWAY; closed once its streams have ended. */
void tunnel_drain(struct tunnel *tunnel);
/* The same, and streams that are on their way here are refused. */
void tunnel_expire(struct tunnel *tunnel);
/* Closes now; its streams end with this reason (those that may are tried again elsewhere). */
void tunnel_close(struct tunnel *tunnel, enum bruma_reason reason, const char *detail);
/* Of tunnel_close(): what the end means to its streams. */
void tunnel_end_streams(struct tunnel *tunnel, enum bruma_reason reason, const char *detail);
/* The same of an open one, with a line in the log and a count also where it has no stream. */
void tunnel_close_reported(struct tunnel *tunnel, enum bruma_reason reason, const char *detail);

#endif
