/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/control_plane/grpc_server.h"

#include <errno.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <unistd.h>

#include "agent/control_plane/grpc_server_private.h"
#include "lib/reasons.h"

#define LOG_SCOPE "grpc"
#include "lib/log.h"

#define HANDSHAKE_LIMIT_MILLISECONDS 5000
#define IDLE_LIMIT_MILLISECONDS      60000 /* of a connection without a call */
#define CHECK_MILLISECONDS           15000 /* a client that was silent for so long is sent a PING; */
#define SILENCE_LIMIT_MILLISECONDS   45000 /* one that stays silent is gone */
#define BACKLOG                      64
#define ACCEPTS_PER_TURN             16 /* of who connects faster than is accepted; others have their turn */

static void client_free(struct grpc_client *client)
{
    if (client->gone)
        return;
    client->gone = true;
    loop_timer_cancel(&client->check);
    while (!list_empty(&client->requests))
        grpc_request_free(list_first(&client->requests, struct grpc_request, node));
    client_limits_remove(&client->server->clients, &client->member);
    h2_connection_close(&client->connection);
    loop_free_later(client->server->loop, client);
}

static void on_down(struct h2_connection *c)
{
    client_free(container_of(c, struct grpc_client, connection));
}

/* Clients that answer every PING and still do not take what they asked for, or never say the rest of it. */
static void end_stalled(struct grpc_client *client)
{
    struct grpc_server *s = client->server;
    uint64_t now = loop_now(s->loop);
    struct grpc_request *q;

    list_for_each (q, &client->requests, node) {
        bool owed = q->writer.queued || !q->heard || grpc_reader_partial(&q->reader);

        if (!owed || now - q->moved < s->stall)
            continue;
        log_warn(
            "a call makes no progress and is reset\treason=%s call=\"%s\" waiting=\"%s\" milliseconds=%llu",
            reason_name(BRUMA_REASON_CALL_STALLED), q->service ? q->service->path : "-",
            q->writer.queued ? "the client does not read" : "the client sends nothing",
            (unsigned long long)(now - q->moved));
        s->stalls++;
        nghttp2_submit_rst_stream(client->connection.session, NGHTTP2_FLAG_NONE, q->id, NGHTTP2_CANCEL);
    }
    h2_connection_send(&client->connection);
}

static uint64_t check_after(const struct grpc_server *s)
{
    return s->stall && s->stall / 2 < CHECK_MILLISECONDS ? s->stall / 2 : CHECK_MILLISECONDS;
}

/* Connections that are left behind, or were never used, must not keep others out. */
static void on_check(struct loop_timer *timer)
{
    struct grpc_client *client = container_of(timer, struct grpc_client, check);
    struct h2_connection *c = &client->connection;
    uint64_t now = loop_now(c->loop);

    loop_timer_set(c->loop, timer, check_after(client->server));
    if (c->handshaking)
        return; /* that has a limit of its own */
    if (client->server->stall)
        end_stalled(client);
    if (c->closed)
        return;
    if (!client->requests_len && now - client->idle_since >= IDLE_LIMIT_MILLISECONDS) {
        h2_connection_fail(c, "idle");
    } else if (now - c->last_received >= SILENCE_LIMIT_MILLISECONDS) {
        h2_connection_fail(c, "the client is silent");
    } else if (now - c->last_received >= CHECK_MILLISECONDS) {
        nghttp2_submit_ping(c->session, NGHTTP2_FLAG_NONE, NULL);
        h2_connection_send(c);
    }
}

/* Whoever has had a call accepted has shown a token. */
static enum client_worth worth_of(const struct limited_client *member)
{
    const struct grpc_client *client = container_of(member, struct grpc_client, member);

    if (client->accepted)
        return CLIENT_KEPT;
    return client->accepted_ever ? CLIENT_BUSY : CLIENT_UNPROVEN;
}

uint64_t grpc_server_turned_away(const struct grpc_server *s)
{
    return s->clients.turned_away;
}

static void accept_one(struct grpc_server *s, int fd, const struct peer_source *source)
{
    struct grpc_client *client = calloc(1, sizeof(*client));
    SSL *ssl = s->tls ? SSL_new(s->tls) : NULL;
    int on = 1;

    if (!client || (s->tls && !ssl)) {
        free(client);
        SSL_free(ssl);
        close(fd);
        return;
    }
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    if (ssl)
        SSL_set_accept_state(ssl);
    client->server = s;
    client->connection.down = on_down;
    client->connection.watch.fd = -1;
    client->connection.last_received = client->idle_since = loop_now(s->loop);
    loop_timer_init(&client->check, on_check);
    loop_timer_set(s->loop, &client->check, check_after(s));
    list_init(&client->requests);
    client->member.source = *source;
    client_limits_add(&s->clients, &client->member);
    if (grpc_server_session_new(client) < 0) {
        SSL_free(ssl);
        close(fd);
        client_free(client);
        return;
    }
    if (h2_connection_open(&client->connection, s->loop, fd, ssl, false, HANDSHAKE_LIMIT_MILLISECONDS) < 0)
        client_free(client);
}

/* Somebody has destroyed the listener (ss -K). It would be acceptable for ever; its port is still ours. */
static void listen_again(struct grpc_server *s)
{
    int fd = s->watch.fd;

    if (listen(fd, BACKLOG) == 0) {
        log_warn("a listener was closed from outside; it was opened again\treason=%s",
                 reason_name(BRUMA_REASON_LISTENER_CLOSED));
        return;
    }
    log_error_errno(errno, "a listener was closed from outside and cannot be opened again\treason=%s",
                    reason_name(BRUMA_REASON_LISTENER_CLOSED));
    loop_watch_remove(s->loop, &s->watch);
    close(fd);
}

static void on_acceptable(struct loop_watch *watch, uint32_t events)
{
    struct grpc_server *s = container_of(watch, struct grpc_server, watch);

    (void)events;
    for (int i = 0; i < ACCEPTS_PER_TURN; i++) {
        int fd = accept4(watch->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC), r;
        struct limited_client *goes;
        struct peer_source source;

        if (fd < 0 && errno == EINVAL) {
            listen_again(s);
            return;
        }
        if (fd < 0) {
            (void)accept_rest(&s->rest, -errno, "the control plane's port");
            return;
        }
        peer_source_get(fd, &source);
        r = client_limits_admit(&s->clients, &source, loop_now(s->loop), &goes);
        if (r > 0)
            client_free(container_of(goes, struct grpc_client, member));
        if (r < 0)
            close(fd);
        else
            accept_one(s, fd, &source);
    }
}

int grpc_server_open(struct loop *loop, const struct endpoint *listen_at, SSL_CTX *tls,
                     const struct grpc_service *services, size_t services_len, void *data,
                     unsigned connections, unsigned per_source, struct grpc_server **ret)
{
    struct sockaddr_storage sa;
    int len = endpoint_to_sockaddr(listen_at, AF_UNSPEC, &sa), on = 1, r;
    _cleanup_fd_ int fd = -1;
    struct grpc_server *s;

    fd = socket(sa.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -errno;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    if (bind(fd, (struct sockaddr *)&sa, (socklen_t)len) < 0 || listen(fd, BACKLOG) < 0)
        return -errno;
    s = calloc(1, sizeof(*s));
    if (!s)
        return -ENOMEM;
    s->loop = loop;
    s->services = services;
    s->services_len = services_len;
    s->data = data;
    client_limits_init(&s->clients, "control-plane", connections, per_source, worth_of);
    accept_rest_init(&s->rest, loop, &s->watch);
    r = loop_watch_add(loop, &s->watch, fd, EPOLLIN, on_acceptable);
    if (r < 0) {
        free(s);
        return r;
    }
    take_fd(&fd);
    if (tls) {
        SSL_CTX_up_ref(tls);
        s->tls = tls;
    }
    *ret = s;
    return 0;
}

void grpc_server_set_stall(struct grpc_server *s, unsigned milliseconds)
{
    s->stall = milliseconds;
}

uint64_t grpc_server_stalls(const struct grpc_server *s)
{
    return s->stalls;
}

void grpc_server_close(struct grpc_server **ptr)
{
    struct grpc_server *s = *ptr;
    int fd;

    if (!s)
        return;
    *ptr = NULL;
    fd = s->watch.fd;
    accept_rest_cancel(&s->rest);
    loop_watch_remove(s->loop, &s->watch);
    close(fd);
    while (!list_empty(&s->clients.members))
        client_free(list_first(&s->clients.members, struct grpc_client, member.node));
    SSL_CTX_free(s->tls);
    loop_free_later(s->loop, s);
}
