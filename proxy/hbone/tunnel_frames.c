/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/hbone/tunnel_frames.h"

#define FRAME_HEADER   9
#define CLIENT_PREFACE 24
#define FRAMES_AT_ONCE 1000 /* each may be answered, and is nine bytes long at least */

void tunnel_frames_closed(struct tunnel *t, int32_t id, bool by_peer)
{
    t->closed[t->closed_next++ % TUNNEL_CLOSED_KEPT] = (struct closed_stream){.id = id, .by_peer = by_peer};
}

const struct closed_stream *tunnel_frames_find_closed(const struct tunnel *t, int32_t id)
{
    for (unsigned i = 0; i < TUNNEL_CLOSED_KEPT; i++) {
        if (t->closed[i].id == id)
            return &t->closed[i];
    }
    return NULL;
}

void tunnel_frames_reset(struct tunnel *t, int32_t id)
{
    for (unsigned i = 0; i < TUNNEL_CLOSED_KEPT; i++) {
        if (t->closed[i].id == id)
            t->closed[i].by_peer = true;
    }
}

static void check_data(struct tunnel *t, int32_t id)
{
    const struct closed_stream *closed =
        nghttp2_session_find_stream(t->session, id) ? NULL : tunnel_frames_find_closed(t, id);

    if (closed && closed->by_peer)
        nghttp2_submit_rst_stream(t->session, NGHTTP2_FLAG_NONE, id, NGHTTP2_STREAM_CLOSED);
}

static int feed(struct tunnel *t, const uint8_t *data, size_t len)
{
    ssize_t n = len ? nghttp2_session_mem_recv(t->session, data, len) : 0;

    return n < 0 ? (int)n : 0;
}

/* What was looked at so far, up to a frame that may depend on it; the answers leave before they are many. */
static int feed_and_answer(struct tunnel *t, const uint8_t *data, size_t len)
{
    int r = feed(t, data, len);

    if (r == 0 && !t->closing && nghttp2_session_get_outbound_queue_size(t->session) > TUNNEL_UNSENT_FRAMES)
        tunnel_send_answers(t);
    return r;
}

/* Whether the frame may open or end a stream, so that what comes behind it has to wait until it was taken. */
static bool moves_streams(const uint8_t header[FRAME_HEADER])
{
    return header[3] == NGHTTP2_HEADERS || header[3] == NGHTTP2_RST_STREAM ||
           (header[3] == NGHTTP2_DATA && (header[4] & NGHTTP2_FLAG_END_STREAM));
}

int tunnel_frames_receive(struct tunnel *t, const uint8_t *data, size_t len)
{
    size_t at = 0, fed = 0, begin = 0;
    unsigned frames = 0;
    bool moved = false;
    int r;

    if (t->server && !t->preface_seen)
        t->frame_left = CLIENT_PREFACE;
    t->preface_seen = true;
    while (at < len) {
        if (t->frame_left) {
            size_t n = len - at < t->frame_left ? len - at : t->frame_left;

            at += n;
            t->frame_left -= (uint32_t)n;
            continue;
        }
        if (!t->frame_header_len)
            begin = at;
        t->frame_header[t->frame_header_len++] = data[at++];
        if (t->frame_header_len < FRAME_HEADER)
            continue;
        t->frame_header_len = 0;
        t->frame_left =
            (uint32_t)t->frame_header[0] << 16 | (uint32_t)t->frame_header[1] << 8 | t->frame_header[2];
        if (++frames == FRAMES_AT_ONCE || (moved && t->frame_header[3] == NGHTTP2_DATA)) {
            r = feed_and_answer(t, data + fed, begin - fed);
            if (r < 0 || t->closing)
                return r;
            fed = begin;
            frames = 0;
            moved = false;
        }
        if (t->frame_header[3] == NGHTTP2_DATA) {
            uint32_t id = (uint32_t)t->frame_header[5] << 24 | (uint32_t)t->frame_header[6] << 16 |
                          (uint32_t)t->frame_header[7] << 8 | t->frame_header[8];

            check_data(t, (int32_t)(id & INT32_MAX));
        }
        moved |= moves_streams(t->frame_header);
    }
    return feed_and_answer(t, data + fed, len - fed);
}
