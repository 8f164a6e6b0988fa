/* SPDX-License-Identifier: Apache-2.0 */
/* One application connection as a stream of a tunnel: bytes between the application's socket and DATA
 * frames. */
#ifndef PROXY_HBONE_STREAM_H
#define PROXY_HBONE_STREAM_H

#include "proxy/hbone/tunnel.h"
#include "proxy/route/route.h"
#include "proxy/telemetry/trace.h"
#include "proxy/worker/connection.h"

enum stream_state {
    STREAM_WAITING,   /* outbound: for a tunnel */
    STREAM_REQUESTED, /* outbound: CONNECT is on its way */
    STREAM_DIALING,   /* inbound: not answered yet; in the end, connecting to the application */
    STREAM_OPEN,
    STREAM_CLOSED, /* freed at the end of the turn */
};

struct inner;
struct stream;

/* What becomes of a stream, told to whoever it was made for. All on the worker's own thread. */
struct stream_events {
    /* Outbound: called when the tunnel that it waited for is open, or cannot be used, or the answer to
     * CONNECT is here (status: of HTTP). */
    void (*tunnel_ready)(struct stream *stream);
    void (*tunnel_lost)(struct stream *stream, enum bruma_reason reason, const char *detail);
    void (*answered)(struct stream *stream, int status);
    /* Outbound: called when the tunnel that it waits for is not open within the time that stream.timer was
     * set to. */
    void (*tunnel_late)(struct stream *stream);
    /* Inbound: called when its request has arrived whole. */
    void (*requested)(struct stream *stream);
    /* Inbound: called when the connect to the application has succeeded or failed. */
    void (*dialed)(struct stream *stream);
    /* Inbound: called when its request, not answered yet, is to be decided upon anew, here by decide() or in
     * another process: what was begun for it is given up. */
    void (*give_up)(struct stream *stream);
    void (*decide)(struct stream *stream);
    /* Inbound: called when it ends before its request was answered, and needs stream.request no more. */
    void (*abandoned)(struct stream *stream);
};

struct stream {
    struct connection c;
    const struct stream_events *events;
    struct list tunnel_node;  /* in tunnel.streams or tunnel.queue */
    struct list held_node;    /* in tunnel.held */
    struct list touched_node; /* in worker.touched */
    enum stream_state state;
    struct tunnel *tunnel; /* NULL: none (yet, or any more) */
    int32_t id;
    struct loop_watch watch; /* the application's socket */
    int fd;
    uint16_t delivery_port; /* inbound: of fd; see socket_deliver() */
    struct loop_timer timer;
    uint64_t last_activity;

    bool readable;      /* the application's socket may have bytes */
    bool read_hangup;   /* EPOLLRDHUP was seen: read up to the end */
    bool waiting_data;  /* nghttp2 has put our DATA off until tunnel_stream_readable() */
    bool read_closed;   /* END_STREAM was sent */
    bool remote_closed; /* END_STREAM was received */
    bool write_closed;  /* shutdown(SHUT_WR) was done */
    bool app_reset;     /* the application has reset its connection: what it said before is still passed on */
    bool lingers;       /* the tunnel has let go of it: the application's last bytes have their time */
    uint8_t attempts;   /* outbound: tunnels tried */
    int status;         /* outbound: of the answer to CONNECT */

    /* Of the window that the peer gives it: WINDOW_UPDATEs that have come, less DATA that was sent. With the
     * initial window of the peer's SETTINGS it is the window, which may be negative; nghttp2 tells 0 then. */
    int64_t window;

    struct iovec *gathered; /* bytes of this turn, in worker.plain_in */
    unsigned gathered_len, gathered_size;
    uint8_t *pending; /* bytes that the application's socket did not take */
    size_t pending_len, pending_offset, pending_size;
    size_t credit;    /* of the tunnel, that is given back as the application reads */
    size_t uncounted; /* of the pending bytes, those that did not come from the peer (a PROXY header) */

    /* outbound: as in struct route, all referenced, or NULL */
    const struct service *expected_service, *gateway_service;
    const struct workload *gateway;
    unsigned spread;         /* with a gateway: among how many tunnels inside of its, see inner.h */
    char *answer_baggage;    /* with a gateway: of the answer, or NULL */
    struct inner *inner;     /* what is carried in place of an application's bytes: a tunnel; or NULL */
    struct request *request; /* inbound, until it is answered: of who began the stream */
};

/* A CONNECT request while its headers arrive. */
struct request {
    char method[16];
    char *authority, *baggage, *forwarded, *forwarded_network;
    char traceparent[TRACEPARENT_LEN + 1]; /* as it came, cut; "": none */
    size_t header_bytes;
    size_t counted; /* of them, in the connection's account */
    bool too_large;
};

/* Inbound: a peer's request begins. events: kept, not copied. NULL without memory. */
struct stream *stream_new(struct worker_pod *wp, const struct endpoint *client,
                          const struct endpoint *destination, const struct stream_events *events);
/* Outbound: takes over a connection that is open to telemetry, with the application's socket. NULL without
 * memory, and both are the caller's still. */
struct stream *stream_take(struct connection *c, int fd, const struct stream_events *events);
/* Outbound, not open yet: it leaves its tunnel. The caller moves its connection, takes its socket, and frees
 * it by loop_free_later(). */
void stream_abandon(struct stream *s);
/* Outbound: one that carries the tunnel inside of a gateway's, for which it is the connection of the pod that
 * client names. It counts as none. events: kept. NULL without memory. */
struct stream *stream_new_carrier(struct worker_pod *wp, const struct endpoint *client, struct inner *inner,
                                  const struct stream_events *events);
/* Bytes may flow from here on: watches the application's socket. */
void stream_open(struct stream *s);

/* Watches the application's socket while it is being connected. 0 or -errno of epoll_ctl(). */
int stream_watch(struct stream *s, uint32_t events);
/* What it carries takes bytes again. */
void stream_write_pending(struct stream *s);
/* Right after stream_open(): bytes of our own (a PROXY header), then whatever the peer sent ahead of the
 * answer. */
void stream_send_first(struct stream *s, const uint8_t *data, size_t len);

/* These four are called by the tunnel. How many bytes of the application were read, 0 with *ret_end at its
 * end; -EAGAIN: nothing now. */
ssize_t stream_read(struct stream *s, uint8_t *buf, size_t size, bool *ret_end);
/* Bytes of the peer have come: kept where they are until the end of the turn. */
void stream_gather(struct stream *s, const uint8_t *data, size_t len);
void stream_deliver(struct stream *s); /* what was gathered, to the application */
/* The peer has ended its side. */
void stream_remote_end(struct stream *s);
/* The connect to the application succeeded, and was followed by a reset. */
void stream_application_reset(struct stream *s);
/* The peer has sent data ahead of the answer, which still goes to the application when the peer has left:
 * ahead of the reset, once the connect is through. */
bool stream_is_ahead(const struct stream *s);
/* The stream has left the tunnel; code: HTTP/2 error code, NO_ERROR after both ends were closed. */
void stream_detached(struct stream *s, uint32_t code);

/* Inbound: answers with a status, logs the reason, ends the stream. detail may be NULL. */
void stream_refuse(struct stream *s, int status, enum bruma_reason reason, const char *detail);

/* Ends it from our side. reset: the application sees a reset, not an end. */
void stream_close(struct stream *s, enum bruma_reason reason, const char *detail, bool reset);

#endif
