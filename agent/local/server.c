/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/local/server.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "bruma/protocol.h"
#include "lib/accept_rest.h"
#include "lib/cleanup.h"
#include "lib/message.h"
#include "lib/outbox.h"
#include "lib/reasons.h"
#include "lib/seqpacket.h"
#include "lib/seqpacket_listener.h"

#define LOG_SCOPE "server"
#include "lib/log.h"

#define CONNECTIONS_MAX   512
#define QUIET_MAX         30000 /* milliseconds between two messages of an impatient role */
#define LINGER_MAX        5000  /* milliseconds for the rest of a queue, and again for the peer's end */
#define MESSAGES_PER_TURN 64    /* of one connection, so that no peer keeps the others waiting */

struct local_connection {
    struct list node;
    struct server *server;
    struct loop_watch watch;
    struct loop_timer quiet;
    pid_t pid;
    const struct server_role *role; /* NULL before the first message */
    void *data;
    struct outbox outbox;
    bool closing; /* what comes does not count any more */
    bool ends;    /* nothing is left to send */
    bool parted;  /* its role has let go of it; the peer has been sent everything, and the end */
    bool closed;
};

struct server {
    struct loop *loop;
    struct seqpacket_listener listener;
    server_route_fn route;
    void *data;
    struct accept_rest rest;
    struct list connections;
    size_t connections_len;
    char buf[BRUMA_MESSAGE_MAX + 1];
};

static void let_go(struct local_connection *c)
{
    if (!c->parted && c->role && c->role->closed)
        c->role->closed(c);
    c->parted = true;
}

static void connection_end(struct local_connection *c)
{
    int fd = c->watch.fd;

    if (c->closed)
        return;
    c->closed = true;
    loop_watch_remove(c->server->loop, &c->watch);
    loop_timer_cancel(&c->quiet);
    let_go(c);
    outbox_clear(&c->outbox);
    if (fd >= 0)
        close(fd);
    list_del(&c->node);
    c->server->connections_len--;
    loop_free_later(c->server->loop, c);
}

/* A socket that is closed with messages unread resets its peer, which then never reads the last ones: why it
 * was turned away, say. So the peer is shown the end, and what it still sends is read until it closes, too.
 */
static void part(struct local_connection *c)
{
    if (c->parted)
        return;
    let_go(c);
    if (shutdown(c->watch.fd, SHUT_WR) < 0) {
        connection_end(c);
        return;
    }
    loop_timer_set(c->server->loop, &c->quiet, LINGER_MAX);
    loop_watch_modify(c->server->loop, &c->watch, EPOLLIN);
}

static void discard(struct local_connection *c)
{
    for (int i = 0; i < MESSAGES_PER_TURN; i++) {
        int fds[BRUMA_MESSAGE_FDS_MAX];
        size_t fds_len = 0;
        ssize_t n = seqpacket_receive(c->watch.fd, c->server->buf, sizeof(c->server->buf), fds,
                                      BRUMA_MESSAGE_FDS_MAX, &fds_len);

        if (n == -EAGAIN)
            return;
        if (n >= 0)
            close_fds(fds, fds_len);
        if (n <= 0 && n != -EMFILE && n != -EMSGSIZE) {
            connection_end(c);
            return;
        }
    }
}

/* Soon rather than now: callers are in the middle of something. */
static void abandon(struct local_connection *c)
{
    c->closing = true;
    loop_timer_set(c->server->loop, &c->quiet, 0);
}

int connection_send(struct local_connection *c, cJSON *message, const int *fds, size_t fds_len)
{
    char *text = message ? cJSON_PrintUnformatted(message) : NULL;
    size_t len = text ? strlen(text) : 0;
    int r = text ? 0 : -ENOMEM;

    cJSON_Delete(message);
    if (c->closing)
        r = -ECONNRESET;
    else if (len > BRUMA_MESSAGE_MAX)
        r = -EMSGSIZE;
    if (r < 0)
        free(text);
    else
        r = outbox_send(&c->outbox, c->watch.fd, text, len, fds, fds_len);
    if (r > 0)
        r = loop_watch_modify(c->server->loop, &c->watch, EPOLLIN | EPOLLOUT);
    if (r < 0 && !c->closing) {
        log_warn_errno(r, "cannot send to a %s\tpid=%d", c->role ? c->role->name : "peer", (int)c->pid);
        abandon(c);
    }
    return r;
}

bool connection_flushed(const struct local_connection *c)
{
    return outbox_empty(&c->outbox);
}

void connection_send_error(struct local_connection *c, enum bruma_reason reason, const char *text)
{
    cJSON *message = message_new("error");

    cJSON_AddStringToObject(message, "reason", reason_name(reason));
    cJSON_AddStringToObject(message, "error", text);
    connection_send(c, message, NULL, 0);
}

void connection_close(struct local_connection *c)
{
    c->closing = true;
    c->ends = outbox_empty(&c->outbox);
    loop_timer_set(c->server->loop, &c->quiet, c->ends ? 0 : LINGER_MAX);
}

void *connection_data(const struct local_connection *c)
{
    return c->data;
}

void connection_set_data(struct local_connection *c, void *data)
{
    c->data = data;
}

pid_t connection_pid(const struct local_connection *c)
{
    return c->pid;
}

static void refuse(struct local_connection *c, const char *what)
{
    log_warn("message refused\tpid=%d peer=%s reason=%s error=\"%s\"", (int)c->pid,
             c->role ? c->role->name : "unknown", reason_name(BRUMA_REASON_MESSAGE_INVALID), what);
    connection_send_error(c, BRUMA_REASON_MESSAGE_INVALID, what);
    connection_close(c);
}

static void handle(struct local_connection *c, size_t len, int *fds, size_t fds_len)
{
    _cleanup_message_ cJSON *message = NULL;
    struct server *s = c->server;

    if (message_parse(s->buf, len, &message) < 0) {
        refuse(c, "not a JSON object with a string \"op\"");
        return;
    }
    if (!c->role) {
        c->role = s->route(s->data, message_op(message), &c->data);
        if (!c->role) {
            refuse(c, "unknown op");
            return;
        }
    }
    if (c->role->patient)
        loop_timer_cancel(&c->quiet);
    else
        loop_timer_set(s->loop, &c->quiet, QUIET_MAX);
    c->role->message(c, message, fds, fds_len);
}

static void receive(struct local_connection *c)
{
    for (int i = 0; i < MESSAGES_PER_TURN && !c->closing; i++) {
        int fds[BRUMA_MESSAGE_FDS_MAX];
        size_t fds_len;
        ssize_t n = seqpacket_receive(c->watch.fd, c->server->buf, sizeof(c->server->buf), fds,
                                      BRUMA_MESSAGE_FDS_MAX, &fds_len);

        if (n == -EAGAIN)
            return;
        if (n == -EMFILE) {
            /* Its descriptors did not come through. It begins anew. */
            connection_send_error(c, BRUMA_REASON_OUT_OF_RESOURCES,
                                  "no file descriptors are left for those of a message");
            connection_close(c);
            return;
        }
        if (n == -EMSGSIZE) {
            refuse(c, "message or its descriptors too large");
            return;
        }
        /* An empty datagram looks like the end too; it is no message either. */
        if (n <= 0) {
            close_fds(fds, fds_len);
            connection_end(c);
            return;
        }
        handle(c, (size_t)n, fds, fds_len);
        close_fds(fds, fds_len);
    }
}

static void on_connection(struct loop_watch *watch, uint32_t events)
{
    struct local_connection *c = container_of(watch, struct local_connection, watch);
    int r;

    if (events & EPOLLOUT) {
        r = outbox_flush(&c->outbox, c->watch.fd);
        if (r < 0 && r != -EAGAIN) {
            connection_end(c);
            return;
        }
        if (r == 0) {
            loop_watch_modify(c->server->loop, watch, EPOLLIN);
            if (c->closing) {
                part(c);
                return;
            }
            if (c->role && c->role->drained)
                c->role->drained(c);
        }
    }
    if (c->parted) {
        discard(c);
        return;
    }
    if (c->closing) {
        /* Its input no longer counts. Waiting for it to take the rest is bounded by the quiet timer. */
        if (events & (EPOLLHUP | EPOLLERR))
            connection_end(c);
        else
            loop_watch_modify(c->server->loop, watch, EPOLLOUT);
        return;
    }
    if (events & (EPOLLIN | EPOLLHUP | EPOLLERR))
        receive(c);
}

static void on_quiet(struct loop_timer *timer)
{
    struct local_connection *c = container_of(timer, struct local_connection, quiet);

    if (c->ends && !c->parted) {
        part(c);
        return;
    }
    if (!c->closing)
        log_warn("a silent peer is disconnected\tpid=%d peer=%s", (int)c->pid,
                 c->role ? c->role->name : "unknown");
    connection_end(c);
}

static void on_listener(struct loop_watch *watch, uint32_t events)
{
    struct server *s = container_of(watch, struct server, listener.watch);
    pid_t pid = 0;

    for (int i = 0; i < MESSAGES_PER_TURN; i++) {
        _cleanup_fd_ int fd = seqpacket_accept(watch->fd, &pid);
        struct local_connection *c;

        if (fd == -EPERM) {
            log_warn("a peer that is not root was refused");
            continue;
        }
        if (fd < 0) {
            (void)accept_rest(&s->rest, fd, "the agent's socket");
            return;
        }
        c = s->connections_len < CONNECTIONS_MAX ? calloc(1, sizeof(*c)) : NULL;
        if (!c) {
            log_warn("a connection was refused: too many are open\tpid=%d", (int)pid);
            continue;
        }
        c->server = s;
        c->pid = pid;
        outbox_init(&c->outbox);
        loop_timer_init(&c->quiet, on_quiet);
        if (loop_watch_add(s->loop, &c->watch, fd, EPOLLIN, on_connection) < 0) {
            log_warn("a connection was refused: it cannot be watched\tpid=%d reason=%s", (int)pid,
                     reason_name(BRUMA_REASON_OUT_OF_RESOURCES));
            free(c);
            continue;
        }
        take_fd(&fd);
        list_add_tail(&s->connections, &c->node);
        s->connections_len++;
        loop_timer_set(s->loop, &c->quiet, QUIET_MAX);
    }
}

int server_open(struct loop *loop, const char *path, server_route_fn route, void *data, struct server **ret)
{
    struct server *s = calloc(1, sizeof(*s));
    int r;

    if (!s)
        return -ENOMEM;
    s->loop = loop;
    s->route = route;
    s->data = data;
    list_init(&s->connections);
    r = seqpacket_listener_open(&s->listener, loop, path, 0600, on_listener);
    if (r < 0) {
        free(s);
        return r;
    }
    accept_rest_init(&s->rest, loop, &s->listener.watch);
    *ret = s;
    return 0;
}

bool server_answers(const char *path)
{
    _cleanup_fd_ int fd = seqpacket_connect(path, 1000, false);

    return fd >= 0;
}

void server_close(struct server **ptr)
{
    struct server *s = *ptr;
    struct local_connection *c;

    if (!s)
        return;
    list_for_each (c, &s->connections, node)
        connection_end(c);
    accept_rest_cancel(&s->rest);
    seqpacket_listener_close(&s->listener);
    free(s);
    *ptr = NULL;
}
