/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A tunnel of the worker (worker_world.h) whose peer is a session of nghttp2 over TLS, with the application's
 * ends of its streams: all in one thread, step by step. The tunnel goes from one "process" to another, which
 * is the same worker, as often as the test wants. Every byte has a value of its own by stream, direction and
 * place, and is checked where it arrives; so is that nobody ends the connection.
 */
#ifndef TESTS_UNIT_PROXY_HBONE_MOVE_SCENE_H
#define TESTS_UNIT_PROXY_HBONE_MOVE_SCENE_H

#include <nghttp2/nghttp2.h>

#include "proxy/hbone/stream.h"
#include "proxy/hbone/tunnel_move.h"
#include "tests/unit/proxy/connection/pending_scene.h"

#define SCENE_STREAMS 4096

/* What both ends know of a stream. */
struct end_to_end {
    int app;                         /* the application's end of its socket; -1: none */
    size_t app_sent, app_received;   /* bytes */
    size_t peer_sent, peer_received; /* bytes of DATA */
    size_t to_send;                  /* of the peer, in all; peer_end: END_STREAM behind them */
    size_t unread;                   /* bytes that the peer has not consumed */
    bool peer_end, peer_got_end, app_got_end;
    bool answered;     /* by 200 */
    bool gone;         /* the peer's session has closed it */
    uint32_t gone_why; /* code of HTTP/2 */
    char authority[64];
};

struct scene {
    bool tunnel_serves;
    size_t moved; /* bytes, of all kinds: grows as long as something happens */
    struct tunnel *tunnel;
    nghttp2_session *session; /* the peer's */
    struct tls tls;           /* the same */
    struct end_to_end streams[SCENE_STREAMS];
    bool reads;   /* the peer consumes DATA as it comes; true at first */
    bool holds;   /* requests of the peer are not answered */
    bool late;    /* and are not waited for */
    bool pressed; /* of scene_pressure() */
    bool deaf;    /* the peer reads nothing of its socket */
    uint8_t *out; /* what the peer has to say, before TLS */
    size_t out_len;
    unsigned acknowledged; /* SETTINGS of the peer that the tunnel has acknowledged */
    unsigned settings;     /* of the tunnel that the peer has read */
    unsigned goaways, pings;
    size_t largest_frame;
    unsigned handed_over;
    unsigned decided;             /* requests, anew */
    int socket_buffer;            /* bytes that an application's socket holds unread; 0: as usual */
    unsigned gone, gone_expected; /* how often a tunnel that stood still went on by itself */
};
extern struct scene scene;

/* Entries of the peer's SETTINGS; len may be 0. With TLS 1.2 where tls_policy_choose() has enabled it. */
void move_scene_begin(bool tunnel_is_server, const nghttp2_settings_entry *entries, size_t len);
/* The connection ends, and nothing is left. */
void move_scene_end(void);

static inline struct end_to_end *scene_stream(int32_t id)
{
    return &scene.streams[(unsigned)id / 2 % SCENE_STREAMS];
}
static inline struct stream *scene_of_tunnel(int32_t id)
{
    return nghttp2_session_get_stream_user_data(scene.tunnel->session, id);
}

/* Of move_peer.c: the peer's session, with such SETTINGS; a stream that it begins. */
void scene_new_session(const nghttp2_settings_entry *entries, size_t len);
int32_t scene_peer_opens(void);
/* The bytes of a stream from a place on, and whether they are these. */
void scene_fill(uint8_t *to, int32_t id, bool from_app, size_t at, size_t len);
void scene_verify(const uint8_t *bytes, int32_t id, bool from_app, size_t at, size_t len);

/* A stream, begun by whichever side is the client. Its id. */
int32_t scene_open(void);
/* So many bytes more, as soon as they may go. */
void scene_peer_sends(int32_t id, size_t bytes, bool end);
void scene_app_sends(int32_t id, size_t bytes);
/* The application reads so many at most. How many it got. */
size_t scene_app_reads(int32_t id, size_t most);
/* The peer consumes so many of what it has not: the tunnel may send as many again. */
void scene_peer_reads(int32_t id, size_t bytes);
/* Much is buffered elsewhere, or no longer: the tunnel's windows shrink or grow. */
void scene_pressure(bool pressed);
void scene_peer_sets(int32_t setting, uint32_t value);

/* What the peer's session has to say goes to scene.out; then so many bytes of that become one TLS record. */
void scene_say(void);
void scene_push(size_t bytes);
/* The worker's loop turns once; the peer takes what comes. */
void scene_turn(void);
void scene_hear(void);
/* Everything goes on, applications read, until nothing moves any more. */
void scene_settle(void);
/* The same, but that applications do not read. */
void scene_settle_unread(void);

/* The tunnel as a unit; its sockets, duplicated. Why it stays, if it does. */
enum tunnel_stays scene_write(struct wire_writer *unit, int *fds, size_t *fds_len);
/* From such a unit; the test fails if it is refused. The old one must be released. */
void scene_read(const struct wire_writer *unit, int *fds, size_t fds_len);
/* The same, which must be a reason to stay, and nothing else happens. */
void scene_stays(enum tunnel_stays why);
/* All of it. What the new one says at once, before it is told anything, fails the test. */
void scene_hand_over(void);
/* Out and back: it is built elsewhere, thrown away there, and goes on here. */
void scene_hand_over_in_vain(void);

#endif
