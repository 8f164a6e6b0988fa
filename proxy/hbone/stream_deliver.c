/* SPDX-License-Identifier: Apache-2.0 */
/* A stream's bytes on their way from the tunnel to the application. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>

#include "proxy/hbone/inner.h"
#include "proxy/hbone/stream_internal.h"

#define GATHERED_FIRST 4
#define GATHERED_KEEP  16  /* pieces that a stream has room for between turns */
#define GATHERED_MAX   256 /* then they are delivered: frames may be of one byte */

void stream_free_pending(struct stream *s)
{
    free(s->pending);
    budget_give(&s->c.account, s->pending_size);
    s->pending = NULL;
    s->pending_len = s->pending_offset = s->pending_size = 0;
}

/* keep() has failed with this. */
static void cannot_hold(struct stream *s, int error)
{
    stream_close(s, error == -ENOBUFS ? BRUMA_REASON_MEMORY_BUDGET : BRUMA_REASON_OUT_OF_RESOURCES, NULL,
                 true);
}

static int keep(struct stream *s, const uint8_t *data, size_t len)
{
    if (s->pending_offset + s->pending_len + len > s->pending_size) {
        size_t size = s->pending_len + len;
        uint8_t *grown;
        int r;

        size = size < 4096 ? 4096 : size + size / 2;
        r = budget_take(&s->c.account, size);
        if (r < 0)
            return r;
        grown = malloc(size);
        if (!grown) {
            budget_give(&s->c.account, size);
            return -ENOMEM;
        }
        budget_give(&s->c.account, s->pending_size);
        if (s->pending_len)
            memcpy(grown, s->pending + s->pending_offset, s->pending_len);
        free(s->pending);
        s->pending = grown;
        s->pending_size = size;
        s->pending_offset = 0;
    }
    memcpy(s->pending + s->pending_offset + s->pending_len, data, len);
    s->pending_len += len;
    return 0;
}

static void took(struct stream *s, size_t bytes)
{
    s->last_activity = loop_now(connection_worker(&s->c)->loop);
    if (s->tunnel && bytes)
        tunnel_stream_consumed(s->tunnel, s, bytes);
}

/* To the socket, or to the tunnel that is carried. Returns how many bytes it took (0: none now), or -errno.
 */
static ssize_t put(struct stream *s, struct iovec *pieces, unsigned len)
{
    struct msghdr msg = {.msg_iov = pieces, .msg_iovlen = len < IOV_MAX ? len : IOV_MAX};
    ssize_t n;

    if (s->inner)
        return inner_put(s->inner, pieces, len);
    do
        n = sendmsg(s->fd, &msg, MSG_DONTWAIT | MSG_NOSIGNAL);
    while (n < 0 && errno == EINTR);
    if (n < 0)
        return errno == EAGAIN ? 0 : -errno;
    return n;
}

/* Bytes that the peer never asked credit for, such as a PROXY header, are not counted as taken. */
void stream_write_pending(struct stream *s)
{
    size_t total = 0;

    while (s->pending_len) {
        struct iovec all = {.iov_base = s->pending + s->pending_offset, .iov_len = s->pending_len};
        ssize_t n = put(s, &all, 1);

        if (n < 0) {
            stream_application_reset(s);
            return;
        }
        if (n == 0)
            break;
        s->pending_offset += (size_t)n;
        s->pending_len -= (size_t)n;
        total += (size_t)n;
    }
    if (!s->pending_len) {
        stream_free_pending(s);
        stream_set_interest(s, false);
    }
    if (total > s->uncounted) {
        took(s, total - s->uncounted);
        s->uncounted = 0;
    } else {
        s->uncounted -= total;
    }
    stream_finish_if_over(s);
}

void stream_gather(struct stream *s, const uint8_t *data, size_t len)
{
    if (s->state == STREAM_DIALING && s->tunnel) {
        /* A peer that does not wait for the answer: its window bounds what it can send so. */
        int r = keep(s, data, len);

        if (r < 0)
            cannot_hold(s, r);
        return;
    }
    if (s->state != STREAM_OPEN) {
        /* bytes behind a refused request: nobody wants them */
        if (s->tunnel)
            tunnel_stream_consumed(s->tunnel, s, len);
        return;
    }
    if (s->gathered_len == GATHERED_MAX) {
        stream_deliver(s);
        if (s->state != STREAM_OPEN)
            return;
    }
    if (s->gathered_len == s->gathered_size) {
        unsigned size = s->gathered_size ? s->gathered_size * 2 : GATHERED_FIRST;
        struct iovec *grown = realloc(s->gathered, size * sizeof(*grown));

        if (!grown) {
            stream_close(s, BRUMA_REASON_OUT_OF_RESOURCES, NULL, true);
            return;
        }
        s->gathered = grown;
        s->gathered_size = size;
    }
    s->gathered[s->gathered_len++] = (struct iovec){.iov_base = (void *)data, .iov_len = len};
    if (list_empty(&s->touched_node))
        list_add_tail(&s->c.wp->worker->touched, &s->touched_node);
    if (s->c.inbound)
        telemetry_bytes(&s->c.flow, len, 0);
    else
        telemetry_bytes(&s->c.flow, 0, len);
}

static void drop_gathered(struct stream *s)
{
    size_t total = 0;

    for (unsigned i = 0; i < s->gathered_len; i++)
        total += s->gathered[i].iov_len;
    s->gathered_len = 0;
    took(s, total);
}

/* What the socket does not take is kept. -EPIPE: the application has reset the connection. */
int stream_send_gathered(struct stream *s)
{
    size_t skip = 0;
    int r;

    if (!s->pending_len && s->gathered_len) {
        ssize_t n = put(s, s->gathered, s->gathered_len);

        if (n < 0)
            return -EPIPE;
        skip = (size_t)n;
        took(s, skip);
    }
    for (unsigned i = 0; i < s->gathered_len; i++) {
        const struct iovec *v = &s->gathered[i];

        if (skip >= v->iov_len) {
            skip -= v->iov_len;
            continue;
        }
        r = keep(s, (const uint8_t *)v->iov_base + skip, v->iov_len - skip);
        if (r < 0)
            return r;
        skip = 0;
    }
    s->gathered_len = 0;
    return 0;
}

void stream_deliver(struct stream *s)
{
    int r;

    if (s->state != STREAM_OPEN)
        return;
    if (s->app_reset) {
        drop_gathered(s);
        return;
    }
    r = stream_send_gathered(s);
    if (r == -EPIPE) {
        drop_gathered(s);
        stream_application_reset(s);
        return;
    }
    if (r < 0) {
        s->gathered_len = 0;
        cannot_hold(s, r);
        return;
    }
    if (s->gathered_size > GATHERED_KEEP) {
        free(s->gathered);
        s->gathered = NULL;
        s->gathered_size = 0;
    }
    if (s->pending_len)
        stream_set_interest(s, true);
    stream_finish_if_over(s);
}

void stream_send_first(struct stream *s, const uint8_t *data, size_t len)
{
    if (len) {
        struct iovec ahead = {.iov_base = s->pending, .iov_len = s->pending_len};
        size_t at = s->pending_offset, size = s->pending_size;
        int r;

        s->pending = NULL;
        s->pending_len = s->pending_offset = s->pending_size = 0;
        r = keep(s, data, len);
        if (r == 0 && ahead.iov_len)
            r = keep(s, (const uint8_t *)ahead.iov_base + at, ahead.iov_len);
        free(ahead.iov_base);
        budget_give(&s->c.account, size);
        if (r < 0) {
            cannot_hold(s, r);
            return;
        }
        s->uncounted = len;
    }
    if (s->pending_len)
        stream_write_pending(s);
    else if (s->remote_closed)
        stream_finish_if_over(s);
    if (s->state == STREAM_OPEN && s->pending_len)
        stream_set_interest(s, true);
}
