/* SPDX-License-Identifier: Apache-2.0 */
/* What comes in by a tunnel, up to the applications' sockets. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "proxy/hbone/stream.h"
#include "proxy/hbone/tunnel_frames.h"
#include "proxy/hbone/tunnel_internal.h"

#define READS_PER_EVENT 4

static void deliver_touched(struct worker *w)
{
    while (!list_empty(&w->touched)) {
        struct stream *s = list_first(&w->touched, struct stream, touched_node);

        list_del(&s->touched_node);
        stream_deliver(s);
    }
}

void tunnel_read(struct tunnel *t)
{
    struct worker *w = t->wp->worker;
    bool more = true;

    t->busy++;
    shared_buffer_take(&w->plain_in, t);
    for (int i = 0; more && (i < READS_PER_EVENT || tls_holds_input(&t->tls)) && !t->closing; i++) {
        ssize_t n = tls_read(&t->tls, w->plain_in.data, w->plain_in.size, &more), used;

        if (n == 0)
            break;
        if (n == -EPIPE) {
            t->lost = true;
            /* After its GOAWAY it may, but streams that were still open have been cut off. */
            tunnel_close(t,
                         !t->goaway       ? BRUMA_REASON_HTTP2_ERROR
                         : t->streams_len ? BRUMA_REASON_PEER_RESET
                                          : BRUMA_REASON_NONE,
                         "the peer closed the tunnel");
            break;
        }
        if (n < 0) {
            char buf[128];

            t->lost = n != -EPROTO;
            if (n == -EPROTO && t->tls.reason != BRUMA_REASON_HTTP2_ERROR)
                tunnel_close_reported(t, t->tls.reason, t->tls.error);
            else
                tunnel_close(t, BRUMA_REASON_HTTP2_ERROR,
                             n == -EPROTO ? t->tls.error : strerror_r((int)-n, buf, sizeof(buf)));
            break;
        }
        t->last_received = loop_now(w->loop);
        used = tunnel_frames_receive(t, w->plain_in.data, (size_t)n);
        deliver_touched(w);
        if (used < 0) {
            char text[160];

            snprintf(text, sizeof(text), "HTTP/2: %s", nghttp2_strerror((int)used));
            tunnel_close(t, BRUMA_REASON_HTTP2_ERROR, text);
            break;
        }
    }
    shared_buffer_leave(&w->plain_in, t);
    if (!t->closing) {
        if (nghttp2_session_want_write(t->session) || tls_wants_flush(&t->tls))
            tunnel_wants_flush(t);
        else
            tunnel_close_if_over(t);
    }
    tunnel_leave(t);
}

/* The peer has gone, and we heard of it by writing: what it had sent before is still there. */
void tunnel_read_rest(struct tunnel *t)
{
    struct worker *w = t->wp->worker;
    bool more = true;

    t->lost = true;
    shared_buffer_take(&w->plain_in, t);
    while (more && !t->closing) {
        ssize_t n = tls_read(&t->tls, w->plain_in.data, w->plain_in.size, &more);

        if (n < 0 || (n > 0 && tunnel_frames_receive(t, w->plain_in.data, (size_t)n) < 0))
            more = false;
        deliver_touched(w);
    }
    shared_buffer_leave(&w->plain_in, t);
}
