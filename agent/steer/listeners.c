/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>

#include "agent/steer/internal.h"
#include "bruma/mesh.h"
#include "lib/cleanup.h"
#include "lib/netns.h"

#define BACKLOG_MAX 65535 /* the kernel cuts it to the pod's somaxconn */

#ifndef SO_BINDTOIFINDEX
#define SO_BINDTOIFINDEX 62
#endif

/*
 * No application asks for one of these: they are beside those of the ambient mesh and of Istio, which
 * programs of pods may have, too (15053 and 15090; 15088 is where waypoints in the mesh take what their
 * node's proxy hands them), and below the range that the kernel gives to connections. A port of that range
 * would be taken from an application that asks for just that one.
 */
#define FIRST_PORT 15056
#define LAST_PORT  15085

static const char *const names[] = {"outbound", "inbound", "HBONE"};

static int bind_any(int fd, int family, uint16_t port)
{
    struct sockaddr_in6 any6 = {.sin6_family = AF_INET6, .sin6_port = htons(port)};
    struct sockaddr_in any4 = {.sin_family = AF_INET, .sin_port = htons(port)};
    int r = family == AF_INET6 ? bind(fd, (struct sockaddr *)&any6, sizeof(any6))
                               : bind(fd, (struct sockaddr *)&any4, sizeof(any4));

    return r < 0 ? -errno : 0;
}

static int bind_somewhere(int fd, int family)
{
    int r = -EADDRINUSE;

    for (uint16_t port = LAST_PORT; r == -EADDRINUSE && port >= FIRST_PORT; port--)
        r = bind_any(fd, family, port);
    /* Somebody has them all. */
    return r == -EADDRINUSE ? bind_any(fd, family, 0) : r;
}

/*
 * One dual-stack socket. Which port it has does not matter, since the pod's program finds the listener in its
 * SOCKMAP.
 */
static int open_listener(enum bruma_listener which, int *ret)
{
    int off = 0, on = 1, lo = BRUMA_LOOPBACK_IFINDEX, r;
    _cleanup_fd_ int fd = socket(AF_INET6, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

    if (fd >= 0) {
        if (setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof(off)) < 0)
            return -errno;
        r = bind_somewhere(fd, AF_INET6);
    } else {
        if (errno != EAFNOSUPPORT)
            return -errno;
        fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
        if (fd < 0)
            return -errno;
        r = bind_somewhere(fd, AF_INET);
    }
    if (r < 0)
        return r;
    /* The SYN-ACK leaves with the original destination as its source, which is not an address of the pod: the
     * IPv4 output route is refused to any other socket. */
    if (setsockopt(fd, IPPROTO_IP, IP_TRANSPARENT, &on, sizeof(on)) < 0)
        return -errno;
    /* Captured sockets are bound to lo, so the answers must come over lo too. Packets to the pod's own
     * address show eth0's index otherwise, and would fit no socket. */
    if (which == BRUMA_LISTENER_OUTBOUND && setsockopt(fd, SOL_SOCKET, SO_BINDTOIFINDEX, &lo, sizeof(lo)) < 0)
        return -errno;
    /* Inherited by what is accepted, which has the destination's port: the application must be able to bind
     * that port while such a connection lives, and in its TIME_WAIT. Nobody can join the listener itself by
     * it. */
    if (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) < 0)
        return -errno;
    /* inherited too */
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    if (listen(fd, BACKLOG_MAX) < 0)
        return -errno;
    *ret = take_fd(&fd);
    return 0;
}

int steer_listeners_open(int netns_fd, int listeners[BRUMA_LISTENER_COUNT], struct steer_error *error)
{
    _cleanup_netns_ int home = netns_visit(netns_fd);
    int r = 0;

    if (home < 0)
        return steer_fail(error, BRUMA_REASON_NETNS_UNUSABLE, home,
                          "cannot enter the pod's network namespace");
    for (int i = 0; i < BRUMA_LISTENER_COUNT; i++) {
        if (listeners[i] >= 0)
            continue;
        r = open_listener((enum bruma_listener)i, &listeners[i]);
        if (r < 0) {
            r = steer_fail(error, BRUMA_REASON_LISTENER_OPEN_FAILED, r, "cannot open the %s listener",
                           names[i]);
            break;
        }
    }
    return r;
}
