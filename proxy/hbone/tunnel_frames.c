/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/hbone/tunnel_frames.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define FRAME_HEADER   9
#define CLIENT_PREFACE 24
#define FRAMES_AT_ONCE 1000        /* each may be answered, and is nine bytes long at least */
#define UNIT_MAX       (64 * 1024) /* bytes that are kept until the rest comes */

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

/* ---- units ---- */

void tunnel_frames_free(struct tunnel *t)
{
    struct tunnel_frames *f = &t->frames;

    free(f->kept);
    budget_give_all(&f->account);
    f->kept = NULL;
    f->kept_len = 0;
}

static bool keep(struct tunnel *t, const uint8_t *data, size_t len)
{
    struct tunnel_frames *f = &t->frames;
    uint8_t *grown;

    if (budget_take(&f->account, len) < 0)
        return false;
    grown = realloc(f->kept, f->kept_len + len);
    if (!grown) {
        budget_give(&f->account, len);
        return false;
    }
    memcpy(grown + f->kept_len, data, len);
    f->kept = grown;
    f->kept_len += len;
    return true;
}

/* What is kept, and what has come behind it. Never DATA but its header: it would not stay where it is. */
static int feed_kept(struct tunnel *t, const uint8_t *data, size_t len)
{
    struct tunnel_frames *f = &t->frames;
    bool together = !len || keep(t, data, len);
    int r = feed_and_answer(t, f->kept, f->kept_len);

    tunnel_frames_free(t);
    if (r < 0 || t->closing || together)
        return r;
    return feed_and_answer(t, data, len);
}

/* What has come of a unit waits for the rest; without memory nghttp2 gets it now. */
static int keep_rest(struct tunnel *t, const uint8_t *data, size_t len)
{
    if (!len || keep(t, data, len))
        return 0;
    t->frames.passes = true;
    return feed_kept(t, data, len);
}

bool tunnel_frames_in_the_middle(const struct tunnel *t)
{
    const struct tunnel_frames *f = &t->frames;

    return f->in_unit && f->passes && !f->in_data;
}

/* Whether the frame may open or end a stream, so that what comes behind it has to wait until it was taken. */
static bool moves_streams(const uint8_t header[FRAME_HEADER])
{
    return header[3] == NGHTTP2_HEADERS || header[3] == NGHTTP2_RST_STREAM ||
           (header[3] == NGHTTP2_DATA && (header[4] & NGHTTP2_FLAG_END_STREAM));
}

/* The header of a frame is whole. unit_len: bytes of its unit up to here. */
static void begin_frame(struct tunnel_frames *f, size_t unit_len)
{
    uint8_t type = f->header[3];
    bool continues = f->in_block && type == NGHTTP2_CONTINUATION;

    f->header_len = 0;
    f->in_data = type == NGHTTP2_DATA && !f->in_block;
    f->left = (uint32_t)f->header[0] << 16 | (uint32_t)f->header[1] << 8 | f->header[2];
    /* anything else inside of a block is an error, which nghttp2 finds */
    f->in_block = (continues || type == NGHTTP2_HEADERS || type == NGHTTP2_PUSH_PROMISE) &&
                  !(f->header[4] & NGHTTP2_FLAG_END_HEADERS);
    if (type == NGHTTP2_DATA || unit_len + f->left > UNIT_MAX)
        f->passes = true;
}

/* As tunnel_frames_receive() walks, but to nobody. */
int tunnel_frames_resume(struct tunnel *t)
{
    struct tunnel_frames *f = &t->frames;
    bool whole = false;

    for (size_t at = 0; at < f->kept_len;) {
        if (whole)
            return -EBADMSG; /* what was whole was not kept */
        f->in_unit = true;
        if (f->left) {
            size_t n = f->kept_len - at < f->left ? f->kept_len - at : f->left;

            at += n;
            f->left -= (uint32_t)n;
        } else {
            f->header[f->header_len++] = f->kept[at++];
            if (f->header_len < FRAME_HEADER)
                continue;
            begin_frame(f, at);
            if (f->passes)
                return -EBADMSG;
        }
        whole = !f->left && !f->in_block;
    }
    return whole ? -EBADMSG : 0;
}

/* Where the walk through what has come is. */
struct walk {
    const uint8_t *data;
    size_t at;
    size_t fed;   /* up to here nghttp2 has it */
    size_t begin; /* of the unit; 0 also where it has begun with an earlier read */
    unsigned frames;
    bool moved;
};

static int on_header(struct tunnel *t, struct walk *w)
{
    struct tunnel_frames *f = &t->frames;
    bool data = f->header[3] == NGHTTP2_DATA;
    int r = 0;

    begin_frame(f, f->kept_len + w->at - w->begin);
    if (++w->frames == FRAMES_AT_ONCE || (w->moved && data)) {
        /* not where the unit has begun with an earlier read: what was before it is fed */
        if (w->begin > w->fed) {
            r = feed_and_answer(t, w->data + w->fed, w->begin - w->fed);
            w->fed = w->begin;
        }
        if (r < 0 || t->closing)
            return r;
        w->frames = 0;
        w->moved = false;
    }
    if (data) {
        uint32_t id = (uint32_t)f->header[5] << 24 | (uint32_t)f->header[6] << 16 |
                      (uint32_t)f->header[7] << 8 | f->header[8];

        check_data(t, (int32_t)(id & INT32_MAX));
    }
    w->moved |= moves_streams(f->header);
    if (f->kept && f->passes) {
        r = feed_kept(t, w->data + w->fed, w->at - w->fed);
        w->fed = w->at;
    }
    return r;
}

static int on_unit_end(struct tunnel *t, struct walk *w)
{
    struct tunnel_frames *f = &t->frames;
    int r = 0;

    f->in_unit = f->passes = f->in_data = false;
    if (f->kept) {
        r = feed_kept(t, w->data + w->fed, w->at - w->fed);
        w->fed = w->at;
    }
    return r;
}

int tunnel_frames_receive(struct tunnel *t, const uint8_t *data, size_t len)
{
    struct tunnel_frames *f = &t->frames;
    struct walk w = {.data = data};
    size_t whole;
    int r;

    if (t->server && !f->preface_seen) {
        f->left = CLIENT_PREFACE;
        f->in_unit = f->passes = true;
    }
    f->preface_seen = true;
    while (w.at < len) {
        if (f->left) {
            size_t n = len - w.at < f->left ? len - w.at : f->left;

            w.at += n;
            f->left -= (uint32_t)n;
        } else {
            if (!f->in_unit)
                w.begin = w.at;
            f->in_unit = true;
            f->header[f->header_len++] = data[w.at++];
            if (f->header_len < FRAME_HEADER)
                continue;
            r = on_header(t, &w);
            if (r < 0 || t->closing)
                return r;
        }
        if (f->left || f->in_block)
            continue;
        r = on_unit_end(t, &w);
        if (r < 0 || t->closing)
            return r;
    }
    whole = f->in_unit && !f->passes ? (f->kept ? w.fed : w.begin) : len;
    r = feed_and_answer(t, data + w.fed, whole - w.fed);
    return r < 0 || t->closing ? r : keep_rest(t, data + whole, len - whole);
}
