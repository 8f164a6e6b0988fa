/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/pods/pod_listeners.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include "bruma/mesh.h"
#include "lib/cleanup.h"
#include "lib/netns.h"

#ifndef SO_BINDTOIFINDEX
#define SO_BINDTOIFINDEX 62
#endif

#define BACKLOG_MAX 65535 /* the kernel cuts it to the pod's somaxconn */

static const struct {
    const char *name;
    uint16_t port;
} listeners[BRUMA_LISTENER_COUNT] = {
    [BRUMA_LISTENER_OUTBOUND] = {"outbound", BRUMA_PORT_OUTBOUND},
    [BRUMA_LISTENER_INBOUND] = {"inbound", BRUMA_PORT_PLAINTEXT},
    [BRUMA_LISTENER_HBONE] = {"HBONE", BRUMA_PORT_HBONE},
};

static int fail(int r, char *error, size_t size, const char *what, const char *detail)
{
    char buf[128];

    snprintf(error, size, "%s%s: %s", what, detail, strerror_r(-r, buf, sizeof(buf)));
    return r;
}

static int option(int fd, int level, int name, int value)
{
    return setsockopt(fd, level, name, &value, sizeof(value)) < 0 ? -errno : 0;
}

static int new_socket(bool *ipv6, int type)
{
    int fd = -1;

    if (*ipv6)
        fd = socket(AF_INET6, type | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    /* A kernel without IPv6 has pods without it too. */
    if (fd < 0 && (!*ipv6 || errno == EAFNOSUPPORT)) {
        *ipv6 = false;
        fd = socket(AF_INET, type | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    }
    return fd < 0 ? -errno : fd;
}

/* Accepted sockets inherit the mark: it keeps their answers out of the redirecting rules. */
static int prepare_any(const struct pod_listener_options *o, int fd, bool ipv6)
{
    int r = o->reuse_port ? option(fd, SOL_SOCKET, SO_REUSEPORT, 1) : 0;

    if (r == 0 && o->mark)
        r = option(fd, SOL_SOCKET, SO_MARK, (int)o->mark);
    if (r == 0 && ipv6)
        r = option(fd, IPPROTO_IPV6, IPV6_V6ONLY, 0);
    return r;
}

static int prepare(const struct pod_listener_options *o, int fd, bool ipv6)
{
    int r = option(fd, SOL_SOCKET, SO_REUSEADDR, 1);

    if (r == 0)
        r = prepare_any(o, fd, ipv6);
    if (r == 0 && o->transparent)
        r = option(fd, IPPROTO_IP, IP_TRANSPARENT, 1);
    else if (r == 0 && o->diverted)
        (void)option(fd, IPPROTO_IP, IP_TRANSPARENT, 1); /* who has no privilege for it does without */
    if (r == 0)
        r = option(fd, IPPROTO_TCP, TCP_NODELAY, 1);
    return r;
}

static int open_listener(const struct pod_listener_options *o, uint16_t port, int *ret)
{
    struct sockaddr_in6 any6 = {.sin6_family = AF_INET6, .sin6_port = htons(port)};
    struct sockaddr_in any4 = {.sin_family = AF_INET, .sin_port = htons(port)};
    bool ipv6 = o->ipv6;
    _cleanup_fd_ int fd = new_socket(&ipv6, SOCK_STREAM);
    int r = fd < 0 ? fd : prepare(o, fd, ipv6);

    if (r < 0)
        return r;
    r = ipv6 ? bind(fd, (struct sockaddr *)&any6, sizeof(any6))
             : bind(fd, (struct sockaddr *)&any4, sizeof(any4));
    if (r < 0 || listen(fd, BACKLOG_MAX) < 0)
        return -errno;
    *ret = take_fd(&fd);
    return 0;
}

/*
 * Where the kernel may, what waits in a closing listener moves to the one that listens beside it, so that an
 * upgrade loses nothing. /proc/sys is often read-only for the proxy; then only what comes between the last
 * accept() and the close() is lost.
 */
static void let_migrate(void)
{
    _cleanup_fd_ int fd = open("/proc/sys/net/ipv4/tcp_migrate_req", O_WRONLY | O_CLOEXEC);

    if (fd >= 0 && write(fd, "1", 1) < 0)
        errno = 0;
}

static int open_all(const struct pod_listener_options *o, int fds[BRUMA_LISTENER_COUNT], char *error,
                    size_t size)
{
    bool opened[BRUMA_LISTENER_COUNT] = {};
    char detail[64];
    int r = 0;

    for (int i = 0; i < BRUMA_LISTENER_COUNT && r == 0; i++) {
        if (fds[i] >= 0 || (o->hbone_only && i != BRUMA_LISTENER_HBONE))
            continue;
        r = open_listener(o, listeners[i].port, &fds[i]);
        opened[i] = r == 0;
        snprintf(detail, sizeof(detail), "%s listener on port %u", listeners[i].name, listeners[i].port);
        if (r < 0)
            fail(r, error, size, "cannot open the pod's ", detail);
    }
    for (int i = 0; i < BRUMA_LISTENER_COUNT && r < 0; i++) {
        if (!opened[i])
            continue;
        close(fds[i]);
        fds[i] = -1;
    }
    return r;
}

static int visit(int netns_fd, int own_netns_fd, char *error, size_t size)
{
    int r = netns_fd == own_netns_fd ? 0 : netns_enter(netns_fd);

    return r < 0 ? fail(r, error, size, "cannot enter the pod's network namespace", "") : 0;
}

static void leave(int netns_fd, int own_netns_fd)
{
    if (netns_fd != own_netns_fd && netns_enter(own_netns_fd) < 0)
        abort(); /* the control thread would go on in a pod */
}

int pod_listeners_open(const struct pod_listener_options *options, int netns_fd, int own_netns_fd,
                       int fds[BRUMA_LISTENER_COUNT], char *error, size_t error_size)
{
    int r = visit(netns_fd, own_netns_fd, error, error_size);

    if (r < 0)
        return r;
    if (options->reuse_port)
        let_migrate();
    r = open_all(options, fds, error, error_size);
    leave(netns_fd, own_netns_fd);
    return r;
}

/*
 * Datagrams are taken on the device lo alone: from outside nobody reaches the socket, whatever rules say.
 * With TCP that would keep the answer to a SYN from IPv6 addresses of the pod, which are not on lo; who dials
 * such a listener itself is seen by the original destination.
 */
static int open_dns_socket(const struct pod_listener_options *o, int type, int *ret)
{
    struct sockaddr_in6 any6 = {.sin6_family = AF_INET6, .sin6_port = htons(BRUMA_PORT_DNS_LISTEN)};
    struct sockaddr_in any4 = {.sin_family = AF_INET, .sin_port = htons(BRUMA_PORT_DNS_LISTEN)};
    bool ipv6 = o->ipv6;
    _cleanup_fd_ int fd = new_socket(&ipv6, type);
    int r = fd < 0 ? fd : prepare_any(o, fd, ipv6);

    if (r == 0 && type == SOCK_DGRAM)
        r = option(fd, SOL_SOCKET, SO_BINDTOIFINDEX, BRUMA_LOOPBACK_IFINDEX);
    if (r == 0 && type == SOCK_DGRAM)
        r = ipv6 ? option(fd, IPPROTO_IPV6, IPV6_RECVPKTINFO, 1) : option(fd, IPPROTO_IP, IP_PKTINFO, 1);
    if (r < 0)
        return r;
    r = ipv6 ? bind(fd, (struct sockaddr *)&any6, sizeof(any6))
             : bind(fd, (struct sockaddr *)&any4, sizeof(any4));
    if (r < 0 || (type == SOCK_STREAM && listen(fd, BACKLOG_MAX) < 0))
        return -errno;
    *ret = take_fd(&fd);
    return 0;
}

int pod_listeners_open_dns(const struct pod_listener_options *options, int netns_fd, int own_netns_fd,
                           int *ret_udp, int *ret_tcp, char *error, size_t error_size)
{
    _cleanup_fd_ int udp = -1, tcp = -1;
    int r = visit(netns_fd, own_netns_fd, error, error_size);

    if (r < 0)
        return r;
    r = open_dns_socket(options, SOCK_DGRAM, &udp);
    if (r == 0)
        r = open_dns_socket(options, SOCK_STREAM, &tcp);
    leave(netns_fd, own_netns_fd);
    if (r < 0)
        return fail(r, error, error_size, "cannot open the pod's sockets for DNS on port 15053", "");
    *ret_udp = take_fd(&udp);
    *ret_tcp = take_fd(&tcp);
    return 0;
}

static int open_loopback(const struct pod_listener_options *o, bool ipv6, int *ret)
{
    struct sockaddr_in6 at6 = {.sin6_family = AF_INET6, .sin6_port = htons(BRUMA_PORT_SOCKS)};
    struct sockaddr_in at4 = {.sin_family = AF_INET, .sin_port = htons(BRUMA_PORT_SOCKS)};
    _cleanup_fd_ int fd = socket(ipv6 ? AF_INET6 : AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    int r = fd < 0 ? -errno : option(fd, SOL_SOCKET, SO_REUSEADDR, 1);

    at6.sin6_addr = in6addr_loopback;
    at4.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (r == 0)
        r = prepare_any(o, fd, ipv6);
    if (r == 0 && ipv6)
        r = option(fd, IPPROTO_IPV6, IPV6_V6ONLY, 1);
    if (r < 0)
        return r;
    r = ipv6 ? bind(fd, (struct sockaddr *)&at6, sizeof(at6))
             : bind(fd, (struct sockaddr *)&at4, sizeof(at4));
    if (r < 0 || listen(fd, BACKLOG_MAX) < 0)
        return -errno;
    *ret = take_fd(&fd);
    return 0;
}

int pod_listeners_open_socks(const struct pod_listener_options *options, int netns_fd, int own_netns_fd,
                             int ret_fds[2], char *error, size_t error_size)
{
    _cleanup_fd_ int v4 = -1, v6 = -1;
    int r = visit(netns_fd, own_netns_fd, error, error_size);

    if (r < 0)
        return r;
    r = open_loopback(options, false, &v4);
    /* A pod without IPv6 has no such address. */
    if (r == 0 && options->ipv6) {
        r = open_loopback(options, true, &v6);
        if (r == -EAFNOSUPPORT || r == -EADDRNOTAVAIL)
            r = 0;
    }
    leave(netns_fd, own_netns_fd);
    if (r < 0)
        return fail(r, error, error_size, "cannot open the pod's SOCKS listener on port 15080", "");
    ret_fds[0] = take_fd(&v4);
    ret_fds[1] = take_fd(&v6);
    return 0;
}

int pod_listeners_possible(const struct pod_listener_options *options, int own_netns_fd, char *error,
                           size_t error_size)
{
    bool ipv6 = options->ipv6;
    _cleanup_fd_ int fd = -1;
    int r = netns_enter(own_netns_fd);

    if (r < 0)
        return fail(r, error, error_size, "cannot enter a network namespace (CAP_SYS_ADMIN)", "");
    fd = new_socket(&ipv6, SOCK_STREAM);
    r = fd < 0 ? fd : prepare(options, fd, ipv6);
    return r < 0 ? fail(r, error, error_size, "cannot mark sockets (CAP_NET_ADMIN)", "") : 0;
}

bool pod_listener_dead(int fd)
{
    int listening = 0;
    socklen_t len = sizeof(listening);

    return getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listening, &len) < 0 || !listening;
}
