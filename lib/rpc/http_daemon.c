/* SPDX-License-Identifier: Apache-2.0 */
/* libmicrohttpd on the loop: it has an epoll of its own, and no thread, no listener and no timer. */
#define LOG_SCOPE "http"
#include <errno.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "lib/cleanup.h"
#include "lib/log.h"
#include "lib/rpc/http_connection.h"

#define TURNS 16 /* of the library in one of the loop's */
#define SPARE 64 /* connections that are shut and not closed yet, beside those that the limits count */

static void finish(struct http_server *s)
{
    struct http_connection *c;
    int wake = s->wake.fd;

    loop_watch_remove(s->loop, &s->events);
    loop_watch_remove(s->loop, &s->wake);
    close(wake);
    MHD_stop_daemon(s->daemon);
    list_for_each (c, &s->connections, node) /* those it had not taken up */
        http_connection_free(c);
    loop_free_later(s->loop, s);
}

static void run(struct http_server *s)
{
    MHD_UNSIGNED_LONG_LONG timeout;
    struct http_connection *c;
    bool more = true;

    s->running = true;
    for (int i = 0; i < TURNS && more && !s->closed; i++) {
        MHD_run(s->daemon);
        /* It has no time to wait for: there is more to do now, or nothing. */
        more = MHD_get_timeout(s->daemon, &timeout) == MHD_YES && timeout == 0;
    }
    s->running = false;
    if (s->closed)
        finish(s);
    else if (more)
        http_connection_wake(s);
    else
        list_for_each (c, &s->connections, node)
            http_connection_look(c);
}

static void on_event(struct loop_watch *watch, uint32_t events)
{
    (void)events;
    run(container_of(watch, struct http_server, events));
}

static void on_wake(struct loop_watch *watch, uint32_t events)
{
    eventfd_t n;

    (void)events;
    (void)eventfd_read(watch->fd, &n);
    run(container_of(watch, struct http_server, wake));
}

_Noreturn static void on_panic(void *data, const char *file, unsigned line, const char *why)
{
    (void)data;
    log_error("libmicrohttpd gives up\tfile=\"%s\" line=%u why=\"%s\"", file ? file : "", line,
              why ? why : "");
    abort();
}

/* In place, at all releases in the same way: later ones make a value that is encoded wrongly an empty one,
 * which is something else to ask for. Here it stays as it is, for whom it is meant to refuse. */
static size_t unescape(void *data, struct MHD_Connection *connection, char *text)
{
    (void)data;
    (void)connection;
    return MHD_http_unescape(text);
}

static struct MHD_Daemon *start(struct http_server *s)
{
    return MHD_start_daemon(
        MHD_USE_EPOLL | MHD_USE_NO_LISTEN_SOCKET | MHD_ALLOW_SUSPEND_RESUME, 0, NULL, NULL,
        http_connection_request, s, MHD_OPTION_NOTIFY_CONNECTION, http_connection_notified, s,
        MHD_OPTION_NOTIFY_COMPLETED, http_connection_completed, s, MHD_OPTION_CONNECTION_LIMIT,
        s->clients.max + SPARE, MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)HTTP_MEMORY,
        MHD_OPTION_UNESCAPE_CALLBACK, unescape, s, MHD_OPTION_STRICT_FOR_CLIENT, 1, MHD_OPTION_END);
}

int http_daemon_start(struct http_server *s)
{
    _cleanup_fd_ int wake = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    const union MHD_DaemonInfo *info;
    int r;

    list_init(&s->connections);
    if (wake < 0)
        return -errno;
    MHD_set_panic_func(on_panic, NULL);
    s->daemon = start(s);
    if (!s->daemon)
        return -ENOMEM;
    info = MHD_get_daemon_info(s->daemon, MHD_DAEMON_INFO_EPOLL_FD);
    r = info ? loop_watch_add(s->loop, &s->events, info->epoll_fd, EPOLLIN, on_event) : -ENOTSUP;
    if (r == 0) {
        r = loop_watch_add(s->loop, &s->wake, wake, EPOLLIN, on_wake);
        if (r < 0)
            loop_watch_remove(s->loop, &s->events);
    }
    if (r < 0)
        MHD_stop_daemon(s->daemon);
    else
        take_fd(&wake);
    return r;
}

void http_daemon_stop(struct http_server *s)
{
    struct http_connection *c;

    s->closed = true;
    list_for_each (c, &s->connections, node)
        http_connection_shut(c);
    if (!s->running)
        finish(s);
}
