/* SPDX-License-Identifier: Apache-2.0 */
/* The tunnel's peer. */
#include "tests/unit/proxy/hbone/move_scene.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

static uint8_t byte_of(int32_t id, bool from_app, size_t at)
{
    return (uint8_t)(at * 7 + (at >> 8) + (unsigned)id * 13 + (from_app ? 101 : 0));
}

void scene_fill(uint8_t *to, int32_t id, bool from_app, size_t at, size_t len)
{
    for (size_t i = 0; i < len; i++)
        to[i] = byte_of(id, from_app, at + i);
}

void scene_verify(const uint8_t *bytes, int32_t id, bool from_app, size_t at, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        if (bytes[i] != byte_of(id, from_app, at + i))
            cr_assert(false, "stream %d, byte %zu of %s", id, at + i,
                      from_app ? "the application" : "the peer");
    }
}

/* ---- the peer's session ---- */

static ssize_t peer_data(nghttp2_session *session, int32_t id, uint8_t *buf, size_t length, uint32_t *flags,
                         nghttp2_data_source *source, void *data)
{
    struct end_to_end *e = scene_stream(id);
    size_t n = e->to_send - e->peer_sent < length ? e->to_send - e->peer_sent : length;

    (void)session;
    (void)source;
    (void)data;
    if (!n && !e->peer_end)
        return NGHTTP2_ERR_DEFERRED;
    scene_fill(buf, id, false, e->peer_sent, n);
    e->peer_sent += n;
    if (e->peer_end && e->peer_sent == e->to_send)
        *flags |= NGHTTP2_DATA_FLAG_EOF;
    return (ssize_t)n;
}

/* Frames as large as they may be. */
static ssize_t peer_length(nghttp2_session *session, uint8_t type, int32_t id, int32_t connection,
                           int32_t stream, uint32_t frame, void *data)
{
    ssize_t n = (ssize_t)frame;

    (void)session;
    (void)type;
    (void)id;
    (void)data;
    n = n < connection ? n : connection;
    n = n < stream ? n : stream;
    return n < 300000 ? n : 300000;
}

static int on_chunk(nghttp2_session *session, uint8_t flags, int32_t id, const uint8_t *bytes, size_t len,
                    void *data)
{
    struct end_to_end *e = scene_stream(id);

    (void)flags;
    (void)data;
    scene_verify(bytes, id, true, e->peer_received, len);
    e->peer_received += len;
    e->unread += len;
    if (scene.reads)
        scene_peer_reads(id, len);
    (void)session;
    return 0;
}

static int on_header(nghttp2_session *session, const nghttp2_frame *frame, const uint8_t *name,
                     size_t name_len, const uint8_t *value, size_t value_len, uint8_t flags, void *data)
{
    struct end_to_end *e = scene_stream(frame->hd.stream_id);

    (void)session;
    (void)flags;
    (void)data;
    if (name_len == 10 && !memcmp(name, ":authority", 10))
        snprintf(e->authority, sizeof(e->authority), "%.*s", (int)value_len, value);
    if (name_len == 7 && !memcmp(name, ":status", 7))
        e->answered = value_len == 3 && !memcmp(value, "200", 3);
    return 0;
}

static int on_frame(nghttp2_session *session, const nghttp2_frame *frame, void *data)
{
    const nghttp2_nv ok = {(uint8_t *)(uintptr_t) ":status", (uint8_t *)(uintptr_t) "200", 7, 3, 0};
    const nghttp2_data_provider provider = {.read_callback = peer_data};

    (void)data;
    if (frame->hd.length > scene.largest_frame && frame->hd.type == NGHTTP2_DATA)
        scene.largest_frame = frame->hd.length;
    switch (frame->hd.type) {
    case NGHTTP2_HEADERS:
        if (!scene.tunnel_serves && frame->headers.cat == NGHTTP2_HCAT_REQUEST)
            cr_assert(nghttp2_submit_response(session, frame->hd.stream_id, &ok, 1, &provider) == 0);
        if (frame->hd.flags & NGHTTP2_FLAG_END_STREAM)
            scene_stream(frame->hd.stream_id)->peer_got_end = true;
        break;
    case NGHTTP2_DATA:
        if (frame->hd.flags & NGHTTP2_FLAG_END_STREAM)
            scene_stream(frame->hd.stream_id)->peer_got_end = true;
        break;
    case NGHTTP2_SETTINGS:
        if (frame->hd.flags & NGHTTP2_FLAG_ACK)
            scene.acknowledged++;
        else
            scene.settings++;
        break;
    case NGHTTP2_GOAWAY:
        cr_assert(frame->goaway.error_code == NGHTTP2_NO_ERROR, "GOAWAY: %s",
                  nghttp2_http2_strerror(frame->goaway.error_code));
        scene.goaways++;
        break;
    case NGHTTP2_PING:
        scene.pings += frame->hd.flags & NGHTTP2_FLAG_ACK ? 1 : 0;
        break;
    default:
        break;
    }
    return 0;
}

static int on_close(nghttp2_session *session, int32_t id, uint32_t code, void *data)
{
    struct end_to_end *e = scene_stream(id);

    (void)data;
    e->gone = true;
    e->gone_why = code;
    nghttp2_session_consume_connection(session, e->unread); /* of no use any more */
    e->unread = 0;
    return 0;
}

static int on_invalid(nghttp2_session *session, const nghttp2_frame *frame, int error, void *data)
{
    (void)session;
    (void)data;
    cr_assert(false, "the tunnel breaks the protocol: frame of type %d, stream %d: %s", frame->hd.type,
              frame->hd.stream_id, nghttp2_strerror(error));
    return 0;
}

void scene_new_session(const nghttp2_settings_entry *entries, size_t len)
{
    nghttp2_session_callbacks *callbacks;
    nghttp2_option *options;

    cr_assert(nghttp2_session_callbacks_new(&callbacks) == 0 && nghttp2_option_new(&options) == 0);
    nghttp2_option_set_no_auto_window_update(options, 1);
    nghttp2_session_callbacks_set_data_source_read_length_callback(callbacks, peer_length);
    nghttp2_session_callbacks_set_on_data_chunk_recv_callback(callbacks, on_chunk);
    nghttp2_session_callbacks_set_on_header_callback(callbacks, on_header);
    nghttp2_session_callbacks_set_on_frame_recv_callback(callbacks, on_frame);
    nghttp2_session_callbacks_set_on_stream_close_callback(callbacks, on_close);
    nghttp2_session_callbacks_set_on_invalid_frame_recv_callback(callbacks, on_invalid);
    cr_assert((scene.tunnel_serves ? nghttp2_session_client_new2 : nghttp2_session_server_new2)(
                  &scene.session, callbacks, NULL, options) == 0);
    nghttp2_session_callbacks_del(callbacks);
    nghttp2_option_del(options);
    cr_assert(nghttp2_submit_settings(scene.session, NGHTTP2_FLAG_NONE, entries, len) == 0);
}

/* ---- bytes ---- */

void scene_say(void)
{
    const uint8_t *data;
    ssize_t n;

    while ((n = nghttp2_session_mem_send(scene.session, &data)) > 0) {
        scene.out = realloc(scene.out, scene.out_len + (size_t)n);
        memcpy(scene.out + scene.out_len, data, (size_t)n);
        scene.out_len += (size_t)n;
    }
    cr_assert(n == 0, "%s", nghttp2_strerror((int)n));
}

void scene_push(size_t bytes)
{
    size_t n = bytes < scene.out_len ? bytes : scene.out_len;

    if (tls_blocked(&scene.tls)) {
        cr_assert(tls_flush(&scene.tls) >= 0);
        return;
    }
    if (!n)
        return;
    cr_assert(tls_write(&scene.tls, scene.out, n) == 0 && tls_flush(&scene.tls) >= 0);
    memmove(scene.out, scene.out + n, scene.out_len - n);
    scene.out_len -= n;
    scene.moved += n;
}

void scene_hear(void)
{
    static uint8_t buf[WORKER_BUFFER];
    bool more = !scene.deaf;

    while (more) {
        ssize_t n = tls_read(&scene.tls, buf, sizeof(buf), &more);

        cr_assert(n >= 0, "the tunnel has gone: %s", n == -EPROTO ? scene.tls.error : strerror((int)-n));
        if (!n)
            break;
        cr_assert(nghttp2_session_mem_recv(scene.session, buf, (size_t)n) == n);
        scene.moved += (size_t)n;
    }
    if (tls_wants_flush(&scene.tls))
        cr_assert(tls_flush(&scene.tls) >= 0);
}

/* ---- what it is told to do ---- */

#define NV(name, value)                                                                                 \
    {                                                                                                   \
        (uint8_t *)(uintptr_t)name, (uint8_t *)(uintptr_t)value, sizeof(name) - 1, sizeof(value) - 1, 0 \
    }

/* Headers that are worth to be indexed. */
int32_t scene_peer_opens(void)
{
    const nghttp2_nv request[] = {NV(":method", "CONNECT"), NV(":authority", "192.0.2.2:80"),
                                  NV("baggage", "k8s.namespace.name=shop,k8s.deployment.name=web"),
                                  NV("forwarded", "for=192.0.2.1")};
    const nghttp2_data_provider provider = {.read_callback = peer_data};
    int32_t id = nghttp2_submit_request(scene.session, NULL, request, 4, &provider, NULL);

    cr_assert(id > 0);
    *scene_stream(id) = (struct end_to_end){.app = -1};
    return id;
}

void scene_peer_sends(int32_t id, size_t bytes, bool end)
{
    struct end_to_end *e = scene_stream(id);

    e->to_send += bytes;
    e->peer_end |= end;
    nghttp2_session_resume_data(scene.session, id);
}

void scene_peer_reads(int32_t id, size_t bytes)
{
    struct end_to_end *e = scene_stream(id);

    bytes = bytes < e->unread ? bytes : e->unread;
    e->unread -= bytes;
    cr_assert(nghttp2_session_consume(scene.session, id, bytes) == 0);
}

void scene_peer_sets(int32_t setting, uint32_t value)
{
    const nghttp2_settings_entry entry = {setting, value};

    cr_assert(nghttp2_submit_settings(scene.session, NGHTTP2_FLAG_NONE, &entry, 1) == 0);
}
