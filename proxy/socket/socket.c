/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/socket/socket.h"

#include <errno.h>
#include <limits.h>
#include <linux/sockios.h>
#include <netinet/tcp.h>
#include <sys/ioctl.h>

#include "lib/netns.h"
#include "proxy/socket/route_device.h"
#include "proxy/socket/socket_internal.h"

#ifndef SO_BINDTOIFINDEX
#define SO_BINDTOIFINDEX 62
#endif

int socket_enter(struct worker *worker, struct pod *pod)
{
    int r;

    if (worker->in_pod == pod)
        return 0;
    if (pod->own) {
        /* It needs no privilege as long as there is no other. */
        if (worker->in_pod)
            socket_leave(worker, worker->in_pod);
        return worker->in_pod ? -EPERM : 0;
    }
    r = netns_enter(pod->fds[BRUMA_POD_FD_NETNS]);
    if (r < 0)
        return r;
    /* The reference keeps the pod's struct, and so the comparison above, valid. */
    pod_ref(pod);
    route_device_close(&worker->netlink);
    if (worker->in_pod)
        pod_unref(worker->in_pod);
    worker->in_pod = pod;
    return 0;
}

void socket_leave(struct worker *worker, const struct pod *pod)
{
    if (worker->in_pod != pod || netns_enter(worker->proxy->own_netns_fd) < 0)
        return;
    route_device_close(&worker->netlink);
    pod_unref(worker->in_pod);
    worker->in_pod = NULL;
}

void socket_keepalive(const struct proxy_settings *s, int fd)
{
    uint64_t patience = s->keepalive_time + s->keepalive_retries * s->keepalive_interval;

    if (s->user_timeout)
        socket_option(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, patience < INT_MAX ? (int)patience : INT_MAX);
    if (!s->keepalive)
        return;
    socket_option(fd, SOL_SOCKET, SO_KEEPALIVE, 1);
    socket_option(fd, IPPROTO_TCP, TCP_KEEPIDLE, (int)(s->keepalive_time / 1000));
    socket_option(fd, IPPROTO_TCP, TCP_KEEPINTVL, (int)(s->keepalive_interval / 1000));
    socket_option(fd, IPPROTO_TCP, TCP_KEEPCNT, (int)s->keepalive_retries);
}

int socket_connect_result(int fd)
{
    int error = 0;
    socklen_t len = sizeof(error);

    if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &len) < 0)
        return -errno;
    return -error;
}

/* Not by a second connect(): if the other side has accepted, spoken and reset meanwhile, that throws away
 * what it said. */
static bool is_established(int fd)
{
    uint8_t state = TCP_CLOSE; /* the first byte of struct tcp_info */
    socklen_t len = sizeof(state);

    return getsockopt(fd, IPPROTO_TCP, TCP_INFO, &state, &len) == 0 && state != TCP_SYN_SENT &&
           state != TCP_SYN_RECV && state != TCP_CLOSE;
}

/* Whether the connect is through, which it mostly is on loopback, is asked at once: that saves a turn of the
 * event loop. */
int socket_start_connect(int fd, const struct endpoint *target, bool *ret_connected)
{
    struct sockaddr_storage sa;
    int len = endpoint_to_sockaddr(target, AF_UNSPEC, &sa);

    *ret_connected = true;
    if (connect(fd, (struct sockaddr *)&sa, (socklen_t)len) == 0)
        return 0;
    if (errno != EINPROGRESS)
        return -errno;
    *ret_connected = is_established(fd);
    return 0;
}

int socket_new(struct worker *worker, struct pod *pod, bool v4)
{
    _cleanup_fd_ int fd = -1;
    int r = socket_enter(worker, pod);

    if (r < 0)
        return r;
    fd = socket(v4 ? AF_INET : AF_INET6, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return -errno;
    socket_option(fd, IPPROTO_TCP, TCP_NODELAY, 1);
    /* The rules that redirect the pod's connections would redirect ours too. */
    r = pod->packet_mark ? socket_option(fd, SOL_SOCKET, SO_MARK, (int)pod->packet_mark) : 0;
    return r < 0 ? r : take_fd(&fd);
}

bool socket_address_is_local(struct worker *worker, struct pod *pod, const struct addr *addr)
{
    const struct endpoint any_port = {.addr = *addr};
    bool local;

    if (pod_has_address(pod, addr))
        return true;
    if (socket_enter(worker, pod) < 0)
        return false;
    (void)route_device(&worker->netlink, &any_port, &local);
    return local;
}

/*
 * The application's own socket to the same destination is bound to lo, and of sockets that are bound to
 * different devices, or only one of them, the kernel lets both have the same addresses and ports. What comes
 * over lo for the application's would then find ours, if that is bound to none: the connection would hang.
 * Bound to the device that it leaves by, ours is out of the way.
 */
static int keep_off_lo(struct worker *worker, const struct pod *pod, int fd, const struct endpoint *target)
{
    bool local = false;
    unsigned device = pod->redirected ? 0 : route_device(&worker->netlink, target, &local);

    if (device)
        (void)socket_option(fd, SOL_SOCKET, SO_BINDTOIFINDEX, (int)device);
    return local ? socket_register_delivery(pod, fd, target) : 0;
}

int socket_dial(struct worker *worker, struct pod *pod, const struct endpoint *target, bool *ret_connected)
{
    _cleanup_fd_ int fd = socket_new(worker, pod, addr_is_v4(&target->addr));
    int r;

    if (fd < 0)
        return fd;
    socket_keepalive(worker->settings, fd);
    r = socket_exempt(worker->proxy, fd);
    if (r < 0)
        return r; /* never let our own socket be captured: it would come back to us */
    r = keep_off_lo(worker, pod, fd, target);
    if (r < 0)
        return r;
    r = socket_start_connect(fd, target, ret_connected);
    return r < 0 ? r : take_fd(&fd);
}

size_t socket_unacknowledged(int fd)
{
    int bytes = 0;

    return ioctl(fd, SIOCOUTQ, &bytes) == 0 && bytes > 0 ? (size_t)bytes : 0;
}

void socket_reset_on_close(int fd)
{
    struct linger linger = {.l_onoff = 1};

    setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, sizeof(linger));
}

enum bruma_reason socket_reason(int error)
{
    switch (error < 0 ? -error : error) {
    case ECONNREFUSED:
    case ECONNRESET:
        return BRUMA_REASON_CONNECT_REFUSED;
    case ETIMEDOUT:
        return BRUMA_REASON_CONNECT_TIMEOUT;
    case ENETUNREACH:
    case EHOSTUNREACH:
    case ENETDOWN:
        return BRUMA_REASON_CONNECT_UNREACHABLE;
    case EMFILE:
    case ENFILE:
    case ENOMEM:
    case ENOBUFS:
    case EADDRNOTAVAIL:
    case EADDRINUSE:
        return BRUMA_REASON_OUT_OF_RESOURCES;
    default:
        return BRUMA_REASON_CONNECT_FAILED;
    }
}
