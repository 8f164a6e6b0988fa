/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/connection/relay.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include "proxy/connection/relay_internal.h"
#include "proxy/connection/retry.h"
#include "proxy/pod/live_connections.h"
#include "proxy/socket/lingering.h"
#include "proxy/socket/socket.h"

#define COPY_SIZE         (128 * 1024)
#define PRESSED_COPY_SIZE (16 * 1024)
#define COPIES_PER_TURN   8

static void on_front(struct loop_watch *watch, uint32_t events);
static void on_back(struct loop_watch *watch, uint32_t events);

static struct loop *loop_of(const struct relay *r)
{
    return r->c.wp->worker->loop;
}

/* Whose the side is, with its account. */
static struct connection *of_side(struct relay *r, int index)
{
    return relay_side_connection(r, index);
}

static struct budget_account *account_of(struct relay *r, int index)
{
    return &of_side(r, index)->account;
}

/* What was read for a side is still delivered to it, unless it has gone. */
static void part(struct relay *r, int index, bool reset, bool drop)
{
    struct relay_side *side = &r->sides[index], *other = &r->sides[1 - index];
    bool owed = r->connected && !side->reset && reset && !drop;
    struct lingering_request q;

    if (owed && relay_side_take_unsent(of_side(r, index), side) < 0) {
        telemetry_failure(connection_worker(&r->c)->telemetry, BRUMA_REASON_OUT_OF_RESOURCES);
        owed = false;
    }
    if (!owed) {
        if (reset)
            socket_reset_on_close(side->fd);
        close(side->fd);
        relay_side_free_unsent(of_side(r, index), side);
        return;
    }
    q = (struct lingering_request){
        .wp = of_side(r, index)->wp,
        .fd = side->fd,
        .unsent = side->unsent,
        .unsent_offset = side->unsent_offset,
        .unsent_len = side->unsent_len,
        .end = other->fin && !side->shut,
        .reset = reset,
        .last_activity = r->last_activity,
        .delivery_port = index == BACK ? r->delivery_port : 0,
        .is_live = r->is_live && index == FRONT,
        .client = r->c.client,
        .port = r->c.destination.port,
    };
    budget_move(account_of(r, index), &q.account, side->unsent_size);
    lingering_begin(&q);
    if (index == FRONT)
        r->is_live = false;
    else
        r->delivery_port = 0;
}

/* The connection goes on without this relay, if another endpoint is found for it. */
static bool given_away(struct relay *r, enum bruma_reason reason)
{
    struct worker_pod *wp = r->c.wp;
    struct loop *loop = wp->worker->loop;

    if (!r->failed || !r->failed(&r->c, r->sides[FRONT].fd, reason))
        return false;
    r->closed = true;
    loop_timer_cancel(&r->timer);
    loop_watch_remove(loop, &r->sides[BACK].watch);
    if (r->sides[BACK].fd >= 0)
        close(r->sides[BACK].fd);
    quota_release(wp, NULL, &r->second);
    loop_free_later(loop, r);
    return true;
}

enum bruma_reason relay_other_reason(enum bruma_reason reason)
{
    return reason == BRUMA_REASON_POD_REMOVED || reason == BRUMA_REASON_DRAIN_DEADLINE
               ? BRUMA_REASON_PEER_RESET
               : BRUMA_REASON_NONE;
}

/* How it is to end for one of the pods. */
struct relay_end {
    enum bruma_reason reason;
    const char *detail;
};

static void end(struct relay *r, const struct relay_end *client, const struct relay_end *other, bool reset)
{
    struct loop *loop = loop_of(r);
    bool drop = client->reason == BRUMA_REASON_MEMORY_BUDGET || other->reason == BRUMA_REASON_MEMORY_BUDGET;

    r->closed = true;
    moving_gone(&r->moving);
    loop_timer_cancel(&r->timer);
    for (int i = 0; i < 2; i++) {
        struct relay_side *side = &r->sides[i];

        loop_watch_remove(loop, &side->watch);
        if (side->fd >= 0 && r->connected)
            telemetry_socket(connection_worker(&r->c)->telemetry,
                             i == FRONT ? TELEMETRY_LEG_CLIENT : TELEMETRY_LEG_SERVER, side->fd);
        if (side->fd >= 0)
            part(r, i, reset, drop);
    }
    if (reset || (r->sides[BACK].ended && r->sides[BACK].shut))
        socket_delivery_over(of_side(r, BACK)->wp, r->delivery_port);
    if (r->is_live)
        live_connections_remove(r->c.wp->pod->live_connections, &r->c.client, r->c.destination.port);
    quota_release(r->c.wp, NULL, &r->second);
    if (r->paired)
        connection_close(r->in, other->reason, other->detail);
    connection_close(&r->c, client->reason, client->detail);
    loop_free_later(loop, r);
}

/* The other pod's application has not taken it: that pod's connection is over, and the client's may go
 * elsewhere. */
static void pair_refused(struct relay *r, const struct relay_end *client, const struct relay_end *other)
{
    struct relay_side *back = &r->sides[BACK];
    struct loop *loop = loop_of(r);

    r->closed = true;
    loop_timer_cancel(&r->timer);
    loop_watch_remove(loop, &back->watch);
    if (back->fd >= 0)
        part(r, BACK, true, true);
    else
        free(back->unsent);
    socket_delivery_over(r->in->wp, r->delivery_port);
    connection_close(r->in, other->reason, other->detail);
    if (!r->failed || !r->failed(&r->c, r->sides[FRONT].fd, client->reason)) {
        part(r, FRONT, true, true);
        connection_close(&r->c, client->reason, client->detail);
    }
    loop_free_later(loop, r);
}

static void relay_close(struct relay *r, enum bruma_reason reason, const char *detail, bool reset)
{
    struct relay_end own = {reason, detail};
    char text[REJECTED_TEXT_LEN];

    if (r->closed)
        return;
    if (r->paired && !r->connected) {
        const struct relay_end client = {BRUMA_REASON_CONNECT_REJECTED, retry_rejected_text(503, text)};

        pair_refused(r, &client, &own);
    } else if (r->connected || !given_away(r, reason)) {
        end(r, &own, &own, reset);
    }
}

void relay_abort(struct connection *c, enum bruma_reason reason, const char *detail)
{
    struct relay *r = container_of(c, struct relay, c);
    const struct relay_end own = {reason, detail}, other = {relay_other_reason(reason), NULL};

    if (!r->paired)
        relay_close(r, reason, detail, true);
    else if (!r->closed)
        end(r, &own, &other, true);
}

/* The same on behalf of the other pod. */
void relay_abort_other(struct connection *in, enum bruma_reason reason, const char *detail)
{
    struct relay *r = container_of(in, struct relay, in[0]);
    const struct relay_end own = {reason, detail}, client = {relay_other_reason(reason), NULL},
                           unserved = {BRUMA_REASON_PEER_RESET, NULL};

    if (r->closed)
        return;
    if (r->connected)
        end(r, &client, &own, true);
    else
        pair_refused(r, &unserved, &own);
}

static void fail_errno(struct relay *r, int error)
{
    char buf[128];

    relay_close(r, socket_reason(error), strerror_r(error < 0 ? -error : error, buf, sizeof(buf)), true);
}

/* How much of what one side sent before its reset has not arrived at the other. */
static size_t last_bytes(const struct relay *r)
{
    size_t left = 0;

    for (int i = 0; i < 2; i++) {
        const struct relay_side *from = &r->sides[i], *to = &r->sides[1 - i];
        int unread = 0;

        if (from->reset && ioctl(from->fd, FIONREAD, &unread) == 0)
            left += (size_t)unread + to->unsent_len + socket_unacknowledged(to->fd);
    }
    return left;
}

static void on_timer(struct loop_timer *timer)
{
    struct relay *r = container_of(timer, struct relay, timer);
    const struct proxy_settings *set = connection_worker(&r->c)->settings;
    uint64_t limit = set->half_close_timeout, idle;

    if (!r->connected && r->patient) {
        r->patient = false;
        loop_timer_set(loop_of(r), timer, set->connect_timeout - retry_patience(&r->c));
        given_away(r, BRUMA_REASON_CONNECT_TIMEOUT);
        return;
    }
    if (!r->connected) {
        relay_close(r, BRUMA_REASON_CONNECT_TIMEOUT, NULL, true);
        return;
    }
    if (r->sides[FRONT].reset || r->sides[BACK].reset) {
        size_t left = last_bytes(r);

        if (left == r->left)
            relay_close(r, BRUMA_REASON_LAST_BYTES_UNDELIVERED, NULL, true);
        r->left = left;
        if (!r->closed)
            loop_timer_set(loop_of(r), timer, set->linger_timeout);
        return;
    }
    idle = loop_now(loop_of(r)) - r->last_activity;
    if (idle >= limit)
        relay_close(r, BRUMA_REASON_IDLE_HALF_CLOSED, NULL, true);
    else
        loop_timer_set(loop_of(r), timer, limit - idle);
}

/*
 * What each socket is watched for follows from the state alone: read while the other takes bytes, write while
 * bytes wait. Errors and hang-ups are told whether one asks or not, and again and again: a side that has hung
 * up is watched no longer. What it has left is read whenever the other side takes it.
 */
static void set_interest(struct relay *r)
{
    for (int i = 0; i < 2; i++) {
        struct relay_side *side = &r->sides[i], *other = &r->sides[1 - i];
        uint32_t events = 0;

        if (side->hung_up)
            continue;
        if (!side->ended && !other->unsent_len && !other->reset)
            events |= EPOLLIN;
        if (side->unsent_len || (other->hung_up && !other->ended))
            events |= EPOLLOUT;
        loop_watch_modify(loop_of(r), &side->watch, events);
    }
}

static void hang_up(struct relay *r, int index, bool reset)
{
    struct relay_side *side = &r->sides[index];

    if (!side->hung_up)
        loop_watch_remove(loop_of(r), &side->watch);
    side->hung_up = true;
    if (!reset || side->reset)
        return;
    side->reset = true;
    relay_side_free_unsent(of_side(r, index), side);
    r->left = last_bytes(r);
    loop_timer_set(loop_of(r), &r->timer, connection_worker(&r->c)->settings->linger_timeout);
}

static void count_bytes(struct relay *r, int from_index, uint64_t n)
{
    uint64_t received = from_index == FRONT ? n : 0, sent = n - received;

    telemetry_bytes(&r->c.flow, received, sent);
    if (r->paired)
        telemetry_bytes(&r->in->flow, received, sent);
}

static int copy_through(struct relay *r, int from_index, struct pipe *pipe, uint8_t *buf)
{
    struct relay_side *from = &r->sides[from_index], *to = &r->sides[1 - from_index];

    /* When much is held already, little of each. */
    size_t size = of_side(r, 1 - from_index)->wp->level == BUDGET_CALM ? COPY_SIZE : PRESSED_COPY_SIZE;

    for (int i = 0; i < COPIES_PER_TURN && !to->unsent_len && !to->reset && !from->ended; i++) {
        ssize_t n = relay_side_read(from, pipe, buf, size);
        int e;

        if (n == -EAGAIN)
            return 0;
        if (n <= 0) {
            from->ended = true;
            from->fin = n == 0 && !from->reset;
            if (n < 0)
                hang_up(r, from_index, true);
            return 0;
        }
        r->last_activity = loop_now(loop_of(r));
        count_bytes(r, from_index, (uint64_t)n);
        e = pipe->in >= 0 ? relay_side_splice(of_side(r, 1 - from_index), to, pipe, (size_t)n)
                          : relay_side_write(of_side(r, 1 - from_index), to, buf, (size_t)n);
        if (e == -ENOMEM || e == -ENOBUFS)
            return e;
        if (e < 0)
            hang_up(r, 1 - from_index, true);
        /* Drained; a pipe may be full before it has so many bytes. */
        if ((size_t)n < (pipe->in >= 0 ? size / 4 : size) && !from->hung_up)
            return 0;
    }
    return 0;
}

/* Moves what is there from one side to the other. -errno: there is no memory. */
static int copy(struct relay *r, int from_index)
{
    struct worker *w = connection_worker(&r->c);
    struct pipe pipe = relay_side_pipe(of_side(r, 1 - from_index), &r->sides[from_index]);
    int e;

    shared_buffer_take(&w->plain_in, r);
    e = copy_through(r, from_index, &pipe, w->plain_in.data);
    shared_buffer_leave(&w->plain_in, r);
    if (pipe.in >= 0)
        pipes_give(&w->pipes, &pipe);
    return e;
}

/* Of a connection that has been reset. A workload of the mesh's that takes no tunnels, and that drops what
 * comes in plaintext, is told from an application that ends. */
static enum bruma_reason reset_reason(const struct relay *r)
{
    const struct flow *flow = &r->c.flow;
    bool unanswered = r->sides[BACK].reset && flow->received && !flow->sent;

    return unanswered && !r->c.inbound && !r->paired && flow->destination ? BRUMA_REASON_PLAINTEXT_RESET
                                                                          : BRUMA_REASON_NONE;
}

static void pass_on_ends(struct relay *r)
{
    for (int i = 0; i < 2; i++) {
        struct relay_side *from = &r->sides[i], *to = &r->sides[1 - i];

        /* All is told that was said before the reset, or there is nobody to tell it. */
        if (from->reset && (from->ended || to->reset)) {
            relay_close(r, reset_reason(r), NULL, true);
            return;
        }
        if (from->ended && !to->unsent_len && !to->shut && !to->reset) {
            to->shut = true;
            shutdown(to->fd, SHUT_WR);
        }
    }
    if (r->sides[FRONT].shut && r->sides[BACK].shut) {
        relay_close(r, BRUMA_REASON_NONE, NULL, false);
    } else if ((r->sides[FRONT].shut || r->sides[BACK].shut) && !loop_timer_armed(&r->timer)) {
        r->last_activity = loop_now(loop_of(r));
        loop_timer_set(loop_of(r), &r->timer, connection_worker(&r->c)->settings->half_close_timeout);
    }
}

static void serve(struct relay *r, int index, uint32_t events)
{
    struct relay_side *side = &r->sides[index], *other = &r->sides[1 - index];
    int e = 0;

    /* The kernel reports a hang-up without an error where the error was told to a send(): our own FIN has not
     * been sent, so it is a reset. */
    if (events & (EPOLLHUP | EPOLLERR))
        hang_up(r, index, (events & EPOLLERR) || !side->shut);
    else if ((events & EPOLLOUT) && relay_side_write_unsent(of_side(r, index), side) < 0)
        hang_up(r, index, true);
    if (events & (EPOLLIN | EPOLLHUP | EPOLLERR))
        e = copy(r, index);
    if (e == 0 && other->hung_up)
        e = copy(r, 1 - index);
    if (e < 0) {
        if (e == -ENOBUFS)
            relay_close(r, BRUMA_REASON_MEMORY_BUDGET, NULL, true);
        else
            fail_errno(r, e);
        return;
    }
    pass_on_ends(r);
    if (!r->closed)
        set_interest(r);
}

static void established(struct relay *r)
{
    int e;

    r->connected = true;
    retry_over(&r->c);
    connection_served(&r->c);
    if (!r->sides[BACK].reset)
        loop_timer_cancel(&r->timer);
    r->sides[FRONT].watch.fd = -1;
    e = loop_watch_add(loop_of(r), &r->sides[FRONT].watch, r->sides[FRONT].fd, EPOLLIN, on_front);
    if (e == 0 && r->sides[BACK].watch.fd < 0 && !r->sides[BACK].hung_up)
        e = loop_watch_add(loop_of(r), &r->sides[BACK].watch, r->sides[BACK].fd, EPOLLIN, on_back);
    if (e < 0) {
        fail_errno(r, e);
        return;
    }
    serve(r, FRONT, EPOLLIN);
}

static int watch_again(struct relay *r, int index)
{
    struct relay_side *side = &r->sides[index];

    side->watch.fd = -1;
    return side->hung_up
               ? 0
               : loop_watch_add(loop_of(r), &side->watch, side->fd, 0, index == FRONT ? on_front : on_back);
}

void relay_go_on(struct relay *r)
{
    int e = watch_again(r, FRONT);

    if (e == 0)
        e = watch_again(r, BACK);
    if (e < 0)
        fail_errno(r, e);
    else
        set_interest(r);
}

static void on_front(struct loop_watch *watch, uint32_t events)
{
    serve(container_of(watch, struct relay, sides[FRONT].watch), FRONT, events);
}

static void on_back(struct loop_watch *watch, uint32_t events)
{
    struct relay *r = container_of(watch, struct relay, sides[BACK].watch);
    int e;

    if (r->connected) {
        serve(r, BACK, events);
        return;
    }
    e = socket_connect_result(watch->fd);
    if (socket_was_reset(e)) {
        hang_up(r, BACK, true);
        e = 0;
    }
    if (e == 0)
        established(r);
    else if (e != -EINPROGRESS)
        fail_errno(r, e);
}

/* The client's port and address are the live connection's own: nothing may be delivered from them. */
static bool registered(struct relay *r)
{
    if (!r->c.inbound)
        return true;
    r->is_live =
        live_connections_add(r->c.wp->pod->live_connections, &r->c.client, r->c.destination.port) > 0;
    return r->is_live;
}

static int open_back(struct relay *r, const struct relay_delivery *to, bool *ret_connected)
{
    struct worker_pod *wp = of_side(r, BACK)->wp;

    return r->c.inbound || r->paired
               ? socket_deliver(wp, &to->target, to->client, ret_connected, &r->delivery_port)
               : socket_dial(wp->worker, wp->pod, &to->target, ret_connected);
}

static void dial(struct relay *r, const struct relay_delivery *to)
{
    struct worker *w = connection_worker(&r->c);
    bool connected;
    int fd;

    if (!registered(r)) {
        relay_close(r, BRUMA_REASON_OUT_OF_RESOURCES, NULL, true);
        return;
    }
    fd = open_back(r, to, &connected);
    if (fd < 0) {
        fail_errno(r, fd);
        return;
    }
    r->sides[BACK].fd = fd;
    if (connected) {
        established(r);
        return;
    }
    if (loop_watch_add(w->loop, &r->sides[BACK].watch, fd, EPOLLOUT, on_back) < 0) {
        relay_close(r, BRUMA_REASON_OUT_OF_RESOURCES, NULL, true);
        return;
    }
    r->patient = r->failed && !r->paired && retry_patience(&r->c);
    loop_timer_set(w->loop, &r->timer, r->patient ? retry_patience(&r->c) : w->settings->connect_timeout);
}

struct relay *relay_new(int fd, bool paired, relay_failed_fn failed)
{
    struct relay *r = calloc(1, sizeof(*r) + (paired ? sizeof(struct connection) : 0));

    if (!r)
        return NULL;
    r->paired = paired;
    for (int i = 0; i < 2; i++) {
        r->sides[i].fd = -1;
        r->sides[i].watch.fd = -1;
        r->sides[i].pipe = PIPE_IS_NONE;
    }
    r->sides[FRONT].fd = fd;
    r->failed = failed;
    loop_timer_init(&r->timer, on_timer);
    return r;
}

int relay_start(struct connection *c, int fd, const struct endpoint *target, relay_failed_fn failed)
{
    struct relay *r = relay_new(fd, false, failed);
    struct relay_delivery to = {.target = *target};

    if (!r)
        return -ENOMEM;
    connection_move(&r->c, c, relay_abort);
    if (connection_worker(&r->c)->settings->original_source)
        to.client = &r->c.client.addr;
    socket_keepalive(connection_worker(&r->c)->settings, fd);
    quota_take(r->c.wp, NULL, &r->second);
    dial(r, &to);
    return 0;
}

/* It waits as what the application has not taken yet. */
static int put_first(struct relay *r, struct budget_account *account, const struct relay_delivery *to)
{
    struct relay_side *back = &r->sides[BACK];

    if (!to->first_len)
        return 0;
    back->unsent = malloc(to->first_len);
    if (!back->unsent)
        return -ENOMEM;
    if (budget_take(account, to->first_len) < 0) {
        free(back->unsent);
        return -ENOMEM;
    }
    memcpy(back->unsent, to->first, to->first_len);
    back->unsent_len = back->unsent_size = to->first_len;
    return 0;
}

int relay_start_pair(struct connection *c, struct connection *in, int fd,
                     const struct relay_delivery *delivery, relay_failed_fn failed)
{
    struct relay *r = relay_new(fd, true, failed);

    if (!r || put_first(r, &in->account, delivery) < 0) {
        free(r);
        return -ENOMEM;
    }
    connection_move(&r->c, c, relay_abort);
    connection_move(r->in, in, relay_abort_other);
    socket_keepalive(connection_worker(&r->c)->settings, fd);
    dial(r, delivery);
    return 0;
}
