/* SPDX-License-Identifier: Apache-2.0 */
#define LOG_SCOPE "acceptor"
#include "proxy/connection/acceptor.h"

#include <errno.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>

#include "lib/log.h"
#include "lib/reasons.h"
#include "proxy/connection/inbound.h"
#include "proxy/connection/outbound.h"
#include "proxy/connection/plaintext.h"
#include "proxy/connection/socks.h"
#include "proxy/hbone/tunnel.h"

#define ACCEPTS_PER_TURN   256
#define RETRY_MILLISECONDS 100
#define FINISH_TURNS       64

static void on_acceptable(struct loop_watch *watch, uint32_t events);

static void on_retry(struct loop_timer *timer)
{
    acceptor_start(container_of(timer, struct acceptor, retry));
}

void acceptor_init(struct acceptor *a, struct worker_pod *wp, enum acceptor_kind kind)
{
    a->pod = wp;
    a->kind = kind;
    a->fd = a->watch.fd = -1;
    loop_timer_init(&a->retry, on_retry);
}

void acceptor_stop(struct acceptor *a)
{
    loop_timer_cancel(&a->retry);
    loop_watch_remove(a->pod->worker->loop, &a->watch);
    a->watch.fd = -1;
}

void acceptor_close(struct acceptor *a)
{
    acceptor_stop(a);
    if (a->fd >= 0)
        close(a->fd);
    a->fd = -1;
}

void acceptor_set(struct acceptor *a, int fd)
{
    struct sockaddr_storage sa;
    struct endpoint bound = {};
    socklen_t len = sizeof(sa);

    acceptor_close(a);
    a->fd = fd;
    if (getsockname(fd, (struct sockaddr *)&sa, &len) == 0)
        endpoint_from_sockaddr((struct sockaddr *)&sa, &bound);
    a->port = bound.port;
}

/* For want of descriptors or memory. The line rests for the whole worker: others of its listeners have the
 * same trouble. */
static void try_again(struct acceptor *a, int r, const char *what)
{
    struct worker *w = a->pod->worker;
    uint64_t unsaid;

    if (log_rest_over(&w->accept_line, loop_now(w->loop), &unsaid))
        log_error("%s; it is tried again\tpod=\"%s/%s\" reason=%s error=\"%s\" unsaid=%" PRIu64, what,
                  a->pod->pod->namespace, a->pod->pod->name, reason_name(BRUMA_REASON_OUT_OF_RESOURCES),
                  strerror(-r), unsaid);
    loop_timer_set(w->loop, &a->retry, RETRY_MILLISECONDS);
}

void acceptor_start(struct acceptor *a)
{
    int r;

    if (a->fd < 0 || a->watch.fd >= 0)
        return;
    r = loop_watch_add(a->pod->worker->loop, &a->watch, a->fd, EPOLLIN | EPOLLEXCLUSIVE, on_acceptable);
    if (r < 0)
        try_again(a, r, "a listener of a pod cannot be watched");
}

#ifndef SO_ORIGINAL_DST
#define SO_ORIGINAL_DST 80 /* the same number for IPv6 */
#endif

/*
 * Where the client wanted to go. Of a redirected connection only conntrack knows; one that it does not track
 * was handed to the listener unchanged, so its local address is the destination, as it is everywhere else.
 */
static void find_destination(int fd, const struct endpoint *client, struct endpoint *destination)
{
    bool v4 = addr_is_v4(&client->addr);
    struct sockaddr_storage sa = {};
    socklen_t len = v4 ? sizeof(struct sockaddr_in) : sizeof(struct sockaddr_in6);
    struct endpoint original;

    if (getsockopt(fd, v4 ? IPPROTO_IP : IPPROTO_IPV6, SO_ORIGINAL_DST, &sa, &len) == 0 &&
        endpoint_from_sockaddr((struct sockaddr *)&sa, &original) == 0)
        *destination = original;
}

static void begin(struct acceptor *a, int fd, const struct sockaddr *from)
{
    struct endpoint client, arrival, destination;
    struct sockaddr_storage sa;
    socklen_t len = sizeof(sa);

    if (getsockname(fd, (struct sockaddr *)&sa, &len) < 0 || endpoint_from_sockaddr(from, &client) < 0 ||
        endpoint_from_sockaddr((struct sockaddr *)&sa, &arrival) < 0) {
        close(fd); /* gone before it was accepted */
        return;
    }
    destination = arrival;
    if (a->pod->pod->redirected && a->kind != ACCEPT_HBONE)
        find_destination(fd, &client, &destination);
    switch (a->kind) {
    case ACCEPT_OUTBOUND:
        outbound_accept(a->pod, fd, &client, &destination);
        break;
    case ACCEPT_PLAINTEXT:
        plaintext_accept(a->pod, fd, &client, &destination, &arrival);
        break;
    case ACCEPT_DNS:
        outbound_accept_dns(a->pod, fd, &client, &destination);
        break;
    case ACCEPT_SOCKS:
        socks_accept(a->pod, fd, &client);
        break;
    case ACCEPT_HBONE:
        tunnel_accept(a->pod, fd, &client, &arrival, inbound_begin);
        break;
    }
}

/* True if more may wait. */
static bool accept_some(struct acceptor *a)
{
    for (int i = 0; i < ACCEPTS_PER_TURN; i++) {
        struct sockaddr_storage from;
        socklen_t len = sizeof(from);
        int fd = accept4(a->fd, (struct sockaddr *)&from, &len, SOCK_NONBLOCK | SOCK_CLOEXEC);

        if (fd >= 0) {
            begin(a, fd, (struct sockaddr *)&from);
            continue;
        }
        if (errno == EAGAIN)
            return false;
        if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) {
            /* The connection stays in the backlog; asking at once again would only burn the processor. */
            int r = -errno;

            acceptor_stop(a);
            try_again(a, r, "connections of a pod wait: they cannot be accepted now");
            return false;
        }
        if (errno == EINVAL || errno == EBADF) {
            /* No longer a listener: somebody has destroyed it (ss -K). It would be acceptable for ever. */
            acceptor_stop(a);
            if (a->kind == ACCEPT_SOCKS)
                return false;
            log_warn("a listener of a pod is closed\tpod=\"%s/%s\" reason=%s", a->pod->pod->namespace,
                     a->pod->pod->name, reason_name(BRUMA_REASON_LISTENER_CLOSED));
            pod_listener_closed(a->pod->pod);
            return false;
        }
    }
    return true;
}

static void on_acceptable(struct loop_watch *watch, uint32_t events)
{
    (void)events;
    (void)accept_some(container_of(watch, struct acceptor, watch));
}

void acceptor_finish(struct acceptor *a)
{
    for (int i = 0; i < FINISH_TURNS && a->watch.fd >= 0 && accept_some(a); i++)
        ;
    acceptor_close(a);
}
