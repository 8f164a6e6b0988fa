/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/hbone/stream_move.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "bruma/handover.h"
#include "proxy/hbone/inner_move.h"
#include "proxy/hbone/request.h"
#include "proxy/hbone/stream_internal.h"
#include "proxy/socket/socket.h"

static struct loop *loop_of(const struct stream *s)
{
    return s->c.wp->worker->loop;
}

/* ---- away ---- */

void stream_freeze(struct stream *s)
{
    loop_watch_remove(loop_of(s), &s->watch);
    if (s->inner)
        inner_freeze(s->inner);
    if (!s->request)
        return;
    loop_timer_cancel(&s->timer);
    s->events->give_up(s);
}

/* All that its socket has to say is said again, for it is watched anew. */
int stream_thaw(struct stream *s)
{
    uint32_t events = EPOLLIN | EPOLLRDHUP | EPOLLET;

    if (s->request) {
        s->events->decide(s);
        return 0;
    }
    if (s->inner) {
        inner_thaw(s->inner);
        return 0;
    }
    return stream_watch(s, s->pending_len ? events | EPOLLOUT : events);
}

static void number_write(struct wire_writer *w, uint32_t field, int64_t value)
{
    if (value)
        wire_put_varint(w, field, (uint64_t)value);
}

static void request_write(struct wire_writer *w, const struct stream *s)
{
    const struct request *request = s->request;
    const struct flow *flow = &s->c.flow;
    struct wire_writer part = {};

    wire_put_string(&part, BRUMA_REQUEST_AUTHORITY, request->authority);
    wire_put_string(&part, BRUMA_REQUEST_BAGGAGE, request->baggage);
    wire_put_string(&part, BRUMA_REQUEST_FORWARDED, request->forwarded);
    wire_put_string(&part, BRUMA_REQUEST_FORWARDED_NETWORK, request->forwarded_network);
    number_write(&part, BRUMA_REQUEST_OPENED, (int64_t)flow->opened);
    wire_put_string(&part, BRUMA_REQUEST_TRACEPARENT, request->traceparent);
    wire_put_flag(&part, BRUMA_REQUEST_COUNTED, s->c.opened || flow->counted);
    wire_put_message(w, BRUMA_STREAM_REQUEST, &part);
}

void stream_write(struct wire_writer *w, uint32_t field, const struct stream *s,
                  const struct http2_stream *state, struct wire_writer *inside)
{
    uint64_t now = loop_now(loop_of(s));
    struct wire_writer part = {.secret = inside != NULL};

    if (s->request)
        request_write(&part, s);
    else
        connection_write(&part, BRUMA_STREAM_CONNECTION, &s->c);
    wire_put_varint(&part, BRUMA_STREAM_ID, (uint64_t)s->id);
    wire_put_flag(&part, BRUMA_STREAM_LOCAL_END, s->read_closed);
    wire_put_flag(&part, BRUMA_STREAM_REMOTE_END, s->remote_closed);
    wire_put_flag(&part, BRUMA_STREAM_SHUT, s->write_closed);
    wire_put_flag(&part, BRUMA_STREAM_RESET, s->app_reset);
    if (state->window)
        wire_put_varint(&part, BRUMA_STREAM_WINDOW, wire_from_signed(state->window));
    number_write(&part, BRUMA_STREAM_RECEIVED, state->received);
    number_write(&part, BRUMA_STREAM_CREDIT, state->credit);
    if (s->pending_len)
        wire_put_bytes(&part, BRUMA_STREAM_UNREAD, s->pending + s->pending_offset, s->pending_len);
    number_write(&part, BRUMA_STREAM_OWN, (int64_t)s->uncounted);
    if (loop_timer_armed(&s->timer) && !s->request)
        wire_put_varint(&part, BRUMA_STREAM_TIMER, s->timer.due > now ? s->timer.due - now : 0);
    wire_put_varint(&part, BRUMA_STREAM_IDLE, now > s->last_activity ? now - s->last_activity : 0);
    if (!s->request)
        number_write(&part, BRUMA_STREAM_DELIVERY_PORT, s->delivery_port);
    if (inside)
        wire_put_message(&part, BRUMA_STREAM_INSIDE, inside);
    wire_put_message(w, field, &part);
}

void stream_release(struct stream *s)
{
    struct loop *loop = loop_of(s);

    s->state = STREAM_CLOSED;
    s->tunnel = NULL;
    list_del(&s->tunnel_node);
    list_del(&s->held_node);
    list_del(&s->touched_node);
    loop_timer_cancel(&s->timer);
    if (s->fd >= 0)
        close(s->fd);
    s->fd = -1;
    if (s->request)
        s->events->abandoned(s);
    if (s->inner)
        inner_release(s->inner);
    free(s->gathered);
    s->gathered = NULL;
    stream_free_pending(s);
    stream_drop_route(s);
    connection_forget(&s->c);
    loop_free_later(loop, s);
}

bool stream_waits(const struct connection *c)
{
    const struct stream *s = container_of(c, const struct stream, c);

    return c->abort == stream_abort && !s->inner && s->state == STREAM_WAITING;
}

int stream_let_go(struct connection *c, struct connection_past *ret)
{
    struct stream *s = container_of(c, struct stream, c);
    int fd;

    if (c->abort != stream_abort || s->inner || (s->state != STREAM_WAITING && s->state != STREAM_REQUESTED))
        return -1;
    fd = s->fd;
    stream_abandon(s);
    connection_undecide(c, ret);
    loop_free_later(loop_of(s), s);
    return fd;
}

/* ---- here ---- */

void stream_arrival_clear(struct stream_arrival *a)
{
    struct stream *s = a->stream;

    if (s) {
        if (s->fd >= 0)
            close(s->fd);
        free(s->pending);
        free(s);
    }
    a->stream = NULL;
    request_clear(&a->request);
    a->request = (struct request){};
    connection_record_clear(&a->record);
}

static int take_text(const struct wire_field *f, char **ret)
{
    if (*ret)
        return -EBADMSG;
    *ret = text_read(f);
    return *ret ? 0 : -EBADMSG;
}

static int request_field(const struct wire_field *f, struct stream_arrival *a)
{
    switch (f->number) {
    case BRUMA_REQUEST_AUTHORITY:
        return take_text(f, &a->request.authority);
    case BRUMA_REQUEST_BAGGAGE:
        return take_text(f, &a->request.baggage);
    case BRUMA_REQUEST_FORWARDED:
        return take_text(f, &a->request.forwarded);
    case BRUMA_REQUEST_FORWARDED_NETWORK:
        return take_text(f, &a->request.forwarded_network);
    case BRUMA_REQUEST_OPENED:
        return wire_take_number(f, UINT64_MAX, &a->past.opened);
    case BRUMA_REQUEST_COUNTED:
        return wire_take_flag(f, &a->past.counted);
    case BRUMA_REQUEST_TRACEPARENT:
        request_keep_header(&a->request, (const uint8_t *)"traceparent", 11, f->bytes,
                            f->type == WIRE_BYTES ? f->len : 0);
        return 0;
    default:
        return unit_field_is_needed(f) ? -EPROTONOSUPPORT : 0;
    }
}

static int take_request(const struct wire_field *field, struct stream_arrival *a)
{
    struct wire_reader reader = wire_reader(field->bytes, field->len);
    struct wire_field f;
    int r = field->type != WIRE_BYTES || a->requested ? -EBADMSG : 0;

    a->requested = true;
    while (r == 0 && (r = wire_next(&reader, &f)) > 0) {
        a->request.header_bytes += f.type == WIRE_BYTES ? f.len : 0;
        r = request_field(&f, a);
    }
    snprintf(a->request.method, sizeof(a->request.method), "CONNECT");
    return r;
}

static int take_unread(struct stream *s, const struct wire_field *f)
{
    if (f->type != WIRE_BYTES || !f->len || s->pending)
        return -EBADMSG;
    s->pending = malloc(f->len);
    if (!s->pending)
        return -ENOMEM;
    memcpy(s->pending, f->bytes, f->len);
    s->pending_len = s->pending_size = f->len;
    return 0;
}

static bool *flag_of(struct stream *s, uint32_t field)
{
    switch (field) {
    case BRUMA_STREAM_LOCAL_END:
        return &s->read_closed;
    case BRUMA_STREAM_REMOTE_END:
        return &s->remote_closed;
    case BRUMA_STREAM_SHUT:
        return &s->write_closed;
    case BRUMA_STREAM_RESET:
        return &s->app_reset;
    default:
        return NULL;
    }
}

static int take_number(struct stream_arrival *a, struct http2_stream *state, const struct wire_field *f)
{
    struct stream *s = a->stream;
    bool *flag = flag_of(s, f->number);

    if (flag) {
        *flag = f->value == 1;
        return f->value <= 1 ? 0 : -EBADMSG;
    }
    switch (f->number) {
    case BRUMA_STREAM_ID:
        s->id = state->id = (int32_t)f->value;
        return f->value && f->value <= INT32_MAX ? 0 : -EBADMSG;
    case BRUMA_STREAM_WINDOW:
        s->window = state->window = wire_to_signed(f->value);
        return 0;
    case BRUMA_STREAM_RECEIVED:
        state->received = (int64_t)f->value;
        return f->value <= INT32_MAX ? 0 : -EBADMSG;
    case BRUMA_STREAM_CREDIT:
        s->credit = f->value;
        state->credit = (int64_t)f->value;
        return f->value <= INT32_MAX ? 0 : -EBADMSG;
    case BRUMA_STREAM_OWN:
        s->uncounted = f->value;
        return f->value <= INT32_MAX ? 0 : -EBADMSG;
    case BRUMA_STREAM_TIMER:
        a->timed = true;
        a->timer = f->value;
        return f->value <= UINT32_MAX ? 0 : -EBADMSG;
    case BRUMA_STREAM_IDLE:
        a->idle = f->value;
        return f->value <= INT64_MAX ? 0 : -EBADMSG;
    case BRUMA_STREAM_DELIVERY_PORT:
        s->delivery_port = (uint16_t)f->value;
        return f->value <= UINT16_MAX ? 0 : -EBADMSG;
    default:
        return unit_field_is_needed(f) ? -EPROTONOSUPPORT : 0;
    }
}

static int take_fields(const uint8_t *data, size_t len, struct stream_arrival *a, struct http2_stream *state,
                       struct wire_field *ret_connection)
{
    struct wire_reader reader = wire_reader(data, len);
    struct wire_field f;
    int r;

    while ((r = wire_next(&reader, &f)) > 0) {
        if (f.number == BRUMA_STREAM_CONNECTION) {
            *ret_connection = f;
            r = f.type == WIRE_BYTES ? 0 : -EBADMSG;
        } else if (f.number == BRUMA_STREAM_REQUEST) {
            r = take_request(&f, a);
        } else if (f.number == BRUMA_STREAM_INSIDE) {
            r = f.type != WIRE_BYTES || a->inside.bytes ? -EBADMSG : 0;
            a->inside = f;
        } else if (f.number == BRUMA_STREAM_UNREAD) {
            r = take_unread(a->stream, &f);
        } else if (f.type == WIRE_VARINT) {
            r = take_number(a, state, &f);
        } else {
            r = unit_field_is_needed(&f) ? -EPROTONOSUPPORT : 0;
        }
        if (r < 0)
            return r;
    }
    return r;
}

/* An open stream tells nobody but its tunnel. */
static const struct stream_events no_events;

/* What the one says about the other; the rest is the session's to refuse. */
static bool is_sound(const struct stream_arrival *a, const struct http2_stream *state, bool has_connection)
{
    const struct stream *s = a->stream;

    if (has_connection == a->requested || (a->requested && a->inside.bytes) ||
        (a->requested && (s->read_closed || s->write_closed || s->app_reset || s->uncounted)))
        return false;
    return state->id && s->uncounted <= s->pending_len &&
           (!s->write_closed || (s->remote_closed && !s->pending_len)) && state->received >= state->unread;
}

int stream_arrival_read(struct worker *w, const uint8_t *data, size_t len, int fd, struct stream_arrival *ret,
                        struct http2_stream *ret_state, char *error, size_t error_size)
{
    struct stream_arrival a = {.stream = stream_alloc(-1, &no_events)};
    struct http2_stream state = {.stream = a.stream};
    struct wire_field connection = {};
    int r = a.stream ? take_fields(data, len, &a, &state, &connection) : -ENOMEM;

    if (r == 0) {
        state.local_end = a.stream->read_closed;
        state.remote_end = a.stream->remote_closed;
        state.requested = a.requested;
        state.unread = (int64_t)(a.stream->pending_len - a.stream->uncounted);
        r = is_sound(&a, &state, connection.bytes) &&
                    (!stream_arrival_has_socket(&a) || fd != STREAM_NO_SOCKET)
                ? 0
                : -EBADMSG;
    }
    if (r < 0)
        snprintf(error, error_size, "%s",
                 r == -EPROTONOSUPPORT ? "a stream with a field that is not known here"
                 : r == -ENOMEM        ? "no memory is left for it"
                                       : "a malformed stream");
    else if (!a.requested)
        r = connection_read(w, connection.bytes, connection.len, &a.record, error, error_size);
    if (r < 0) {
        stream_arrival_clear(&a);
        return r;
    }
    a.stream->fd = stream_arrival_has_socket(&a) ? fd : -1;
    *ret = a;
    *ret_state = state;
    return 0;
}

/* What the budget does not hold is held all the same: it was before. */
static void hold_pending(struct stream *s)
{
    if (s->pending_size && budget_take(&s->c.account, s->pending_size) < 0)
        s->pending_size = 0; /* so much is given back */
}

/* As if it had just come: whoever takes the tunnel's requests decides upon it in stream_go_on(). */
static void request_arrive(struct tunnel *t, struct stream_arrival *a)
{
    struct stream *from = a->stream, *s = t->begin_request(t, from->id);

    nghttp2_session_set_stream_user_data(t->session, from->id, s);
    if (!s) {
        nghttp2_submit_rst_stream(t->session, NGHTTP2_FLAG_NONE, from->id, NGHTTP2_INTERNAL_ERROR);
        return;
    }
    connection_remember(&s->c, &a->past);
    *s->request = a->request;
    a->request = (struct request){};
    s->window = from->window;
    s->credit = from->credit;
    s->remote_closed = from->remote_closed;
    s->pending = from->pending;
    s->pending_len = s->pending_size = from->pending_len;
    from->pending = NULL;
    hold_pending(s);
}

void stream_arrive(struct tunnel *t, struct stream_arrival *a)
{
    struct stream *s = a->stream;
    struct worker *w = t->wp->worker;

    if (a->requested) {
        request_arrive(t, a);
        stream_arrival_clear(a);
        return;
    }
    if (!connection_begin(&s->c, w, &a->record, stream_abort))
        abort(); /* the tunnel's pod, which is its own, was there a moment ago */
    hold_pending(s);
    s->state = STREAM_OPEN;
    s->last_activity = loop_now(w->loop) > a->idle ? loop_now(w->loop) - a->idle : 0;
    s->waiting_data = true;
    tunnel_add_stream(t, s);
    if (a->timed)
        loop_timer_set(w->loop, &s->timer, a->timer);
    a->stream = NULL;
    stream_arrival_clear(a);
}

void stream_go_on(struct stream *s)
{
    if (s->request) {
        s->events->decide(s);
        return;
    }
    if (!s->inner && stream_thaw(s) < 0) {
        stream_close(s, BRUMA_REASON_OUT_OF_RESOURCES, NULL, true);
        return;
    }
    s->readable = true;
    if (!s->read_closed)
        tunnel_stream_readable(s->tunnel, s);
    if (s->pending_len && !s->inner)
        stream_write_pending(s);
    else if (!s->pending_len)
        stream_finish_if_over(s);
}
