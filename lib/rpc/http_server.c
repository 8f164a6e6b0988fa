/* SPDX-License-Identifier: Apache-2.0 */
#define LOG_SCOPE "http"
#include "lib/rpc/http_server.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "lib/accept_rest.h"
#include "lib/cleanup.h"
#include "lib/log.h"
#include "lib/reasons.h"
#include "lib/rpc/http_connection.h"

#define BACKLOG          128
#define ACCEPTS_PER_TURN 16

struct listener {
    struct list node;
    struct http_server *server;
    struct loop_watch watch;
    struct accept_rest rest;
    int fd;
    char *path; /* of a Unix socket, or NULL */
    dev_t device;
    ino_t inode;
};

int http_server_new(struct loop *loop, const char *name, http_request_fn fn, void *data,
                    const struct http_limits *limits, struct http_server **ret)
{
    struct http_server *s = calloc(1, sizeof(*s));
    int r;

    if (!s)
        return -ENOMEM;
    s->loop = loop;
    s->fn = fn;
    s->data = data;
    list_init(&s->listeners);
    client_limits_init(&s->clients, name, limits ? limits->connections : 0, limits ? limits->per_source : 0,
                       http_connection_worth);
    r = http_daemon_start(s);
    if (r < 0) {
        free(s);
        return r;
    }
    *ret = s;
    return 0;
}

/* Another process may have put its own socket there since. */
static bool holds_path(const struct listener *l)
{
    struct stat st;

    return l->path && lstat(l->path, &st) == 0 && st.st_dev == l->device && st.st_ino == l->inode;
}

static void listener_close(struct listener *l)
{
    if (holds_path(l))
        unlink(l->path);
    accept_rest_cancel(&l->rest);
    loop_watch_remove(l->server->loop, &l->watch);
    close(l->fd);
    free(l->path);
    list_del(&l->node);
    loop_free_later(l->server->loop, l);
}

void http_server_unlisten(struct http_server *s)
{
    while (!list_empty(&s->listeners))
        listener_close(list_first(&s->listeners, struct listener, node));
}

void http_server_close(struct http_server **ptr)
{
    struct http_server *s = *ptr;

    if (!s)
        return;
    http_server_unlisten(s);
    http_daemon_stop(s);
    *ptr = NULL;
}

/* ---- accepting ---- */

uint64_t http_server_turned_away(const struct http_server *s)
{
    return s->clients.turned_away;
}

static void take(struct http_server *s, int fd)
{
    struct limited_client *goes;
    struct peer_source source;
    int r;

    peer_source_get(fd, &source);
    r = client_limits_admit(&s->clients, &source, loop_now(s->loop), &goes);
    if (r > 0)
        http_connection_shut(container_of(goes, struct http_connection, member));
    if (r < 0) { /* never: none of its connections is worth being kept for ever */
        close(fd);
        return;
    }
    r = http_connection_new(s, fd, &source);
    if (r < 0)
        log_warn_errno(r, "a connection could not be served");
}

/* Somebody has destroyed the listener (ss -K). It would be acceptable for ever; its port is still ours. */
static void listen_again(struct listener *l)
{
    if (listen(l->fd, BACKLOG) == 0) {
        log_warn("a listener was closed from outside; it was opened again\treason=%s",
                 reason_name(BRUMA_REASON_LISTENER_CLOSED));
        return;
    }
    log_error_errno(errno, "a listener was closed from outside and cannot be opened again\treason=%s",
                    reason_name(BRUMA_REASON_LISTENER_CLOSED));
    loop_watch_remove(l->server->loop, &l->watch);
}

static void on_accept(struct loop_watch *watch, uint32_t events)
{
    struct listener *l = container_of(watch, struct listener, watch);

    (void)events;
    for (int i = 0; i < ACCEPTS_PER_TURN; i++) {
        int fd = accept4(l->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);

        if (fd >= 0) {
            take(l->server, fd);
            continue;
        }
        if (accept_rest(&l->rest, -errno, l->path ? l->path : "an HTTP server"))
            return;
        if (errno == EINVAL)
            listen_again(l);
        if (errno != EINTR && errno != ECONNABORTED)
            return;
    }
}

/* ---- listeners ---- */

/* Takes the descriptor, also on failure. path: of a Unix socket that is bound already, or NULL. */
static int add_listener(struct http_server *s, int fd, const char *path)
{
    _cleanup_fd_ int own = fd;
    struct listener *l = calloc(1, sizeof(*l));
    struct stat st;
    int r;

    if (!l)
        return -ENOMEM;
    l->server = s;
    l->fd = fd;
    accept_rest_init(&l->rest, s->loop, &l->watch);
    if (path) {
        l->path = strdup(path);
        if (!l->path || lstat(path, &st) < 0) {
            r = l->path ? -errno : -ENOMEM;
            free(l->path);
            free(l);
            return r;
        }
        l->device = st.st_dev;
        l->inode = st.st_ino;
    }
    r = listen(fd, BACKLOG) < 0 ? -errno : loop_watch_add(s->loop, &l->watch, fd, EPOLLIN, on_accept);
    if (r < 0) {
        free(l->path);
        free(l);
        return r;
    }
    take_fd(&own);
    list_add_tail(&s->listeners, &l->node);
    return 0;
}

int http_server_listen(struct http_server *s, const struct endpoint *at, bool only_v6,
                       struct endpoint *ret_bound)
{
    int family = addr_is_v4(&at->addr) ? AF_INET : AF_INET6, one = 1, v6 = only_v6, r;
    _cleanup_fd_ int fd = socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    struct sockaddr_storage sa;
    struct endpoint bound;
    socklen_t len;

    if (fd < 0)
        return -errno;
    r = endpoint_to_sockaddr(at, family, &sa);
    if (r < 0)
        return r;
    len = (socklen_t)r;
    if (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)) < 0 ||
        (family == AF_INET6 && setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &v6, sizeof(v6)) < 0) ||
        bind(fd, (struct sockaddr *)&sa, len) < 0)
        return -errno;
    len = sizeof(sa);
    if (getsockname(fd, (struct sockaddr *)&sa, &len) < 0)
        return -errno;
    r = endpoint_from_sockaddr((struct sockaddr *)&sa, &bound);
    if (r < 0)
        return r;
    r = add_listener(s, take_fd(&fd), NULL);
    if (r == 0 && ret_bound)
        *ret_bound = bound;
    return r;
}

int http_server_listen_any(struct http_server *s, uint16_t port, bool ipv6, struct endpoint *ret_bound)
{
    struct endpoint at = {.port = port};
    int r = -EAFNOSUPPORT;

    if (ipv6)
        r = http_server_listen(s, &at, false, ret_bound);
    if (r != -EAFNOSUPPORT && r != -EADDRNOTAVAIL)
        return r;
    r = addr_parse("0.0.0.0", &at.addr);
    return r < 0 ? r : http_server_listen(s, &at, false, ret_bound);
}

/* Listeners at this path but the last, which has taken it. */
static void close_former(struct http_server *s, const char *path)
{
    struct listener *l;

    list_for_each (l, &s->listeners, node) {
        if (l->path && !strcmp(l->path, path) && l->node.next != &s->listeners)
            listener_close(l);
    }
}

int http_server_listen_unix(struct http_server *s, const char *path, mode_t mode)
{
    _cleanup_fd_ int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    struct sockaddr_un sa = {.sun_family = AF_UNIX};
    int r;

    if (fd < 0)
        return -errno;
    /* Bound beside the path and moved there: at no time is there a socket that nobody serves, or with other
     * rights. */
    if (snprintf(sa.sun_path, sizeof(sa.sun_path), "%s.%d", path, (int)getpid()) >= (int)sizeof(sa.sun_path))
        return -ENAMETOOLONG;
    unlink(sa.sun_path);
    if (bind(fd, (struct sockaddr *)&sa, sizeof(sa)) < 0)
        return -errno;
    if (chmod(sa.sun_path, mode) < 0 || listen(fd, BACKLOG) < 0 || rename(sa.sun_path, path) < 0) {
        r = -errno;
        unlink(sa.sun_path);
        return r;
    }
    r = add_listener(s, take_fd(&fd), path);
    if (r == 0)
        close_former(s, path);
    return r;
}

bool http_server_holds_unix(const struct http_server *s, const char *path)
{
    const struct listener *l;

    list_for_each (l, &s->listeners, node) {
        if (l->path && !strcmp(l->path, path) && holds_path(l))
            return true;
    }
    return false;
}
