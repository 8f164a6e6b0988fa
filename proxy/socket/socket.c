/* SPDX-License-Identifier: Apache-2.0 */
#define LOG_SCOPE "socket"
#include "proxy/socket/socket.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <time.h>

#include "bruma/mesh.h"
#include "lib/log.h"
#include "lib/netns.h"
#include "lib/reasons.h"
#include "proxy/pod/live_connections.h"
#include "proxy/socket/route_device.h"

#ifndef IPV6_FREEBIND
#define IPV6_FREEBIND 78
#endif

#define DELIVERY_PORT_TRIES    16
#define SCARCE_MILLISECONDS    100
#define LOG_AGAIN_MILLISECONDS 60000

#ifndef IP_PKTOPTIONS
#define IP_PKTOPTIONS 9
#endif
#ifndef SO_BINDTOIFINDEX
#define SO_BINDTOIFINDEX 62
#endif

/* Written through the map's descriptor, which only the agent hands out: nothing in a pod can set it. */
static int exempt(struct proxy *proxy, int fd)
{
    struct bruma_proxy_socket value = {.exempt = 1};
    union bpf_attr attr = {};
    int map = __atomic_load_n(&proxy->exempt_map_fd, __ATOMIC_ACQUIRE);

    if (map < 0)
        return 0; /* no agent: no hook that would capture the socket */
    attr.map_fd = (__u32)map;
    attr.key = (__u64)(uintptr_t)&fd;
    attr.value = (__u64)(uintptr_t)&value;
    return syscall(SYS_bpf, BPF_MAP_UPDATE_ELEM, &attr, sizeof(attr)) < 0 ? -errno : 0;
}

static int enter(struct worker *worker, struct pod *pod)
{
    int r;

    if (worker->in_pod == pod)
        return 0;
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

static int option(int fd, int level, int name, int value)
{
    return setsockopt(fd, level, name, &value, sizeof(value)) < 0 ? -errno : 0;
}

void socket_keepalive(const struct proxy_settings *s, int fd)
{
    if (!s->keepalive)
        return;
    option(fd, SOL_SOCKET, SO_KEEPALIVE, 1);
    option(fd, IPPROTO_TCP, TCP_KEEPIDLE, (int)(s->keepalive_time / 1000));
    option(fd, IPPROTO_TCP, TCP_KEEPINTVL, (int)(s->keepalive_interval / 1000));
    option(fd, IPPROTO_TCP, TCP_KEEPCNT, (int)s->keepalive_retries);
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
static int start_connect(int fd, const struct endpoint *target, bool *ret_connected)
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

static int new_socket(struct worker *worker, struct pod *pod, bool v4)
{
    _cleanup_fd_ int fd = -1;
    int r = enter(worker, pod);

    if (r < 0)
        return r;
    fd = socket(v4 ? AF_INET : AF_INET6, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return -errno;
    option(fd, IPPROTO_TCP, TCP_NODELAY, 1);
    /* The rules that redirect the pod's connections would redirect ours too. */
    r = pod->packet_mark ? option(fd, SOL_SOCKET, SO_MARK, (int)pod->packet_mark) : 0;
    return r < 0 ? r : take_fd(&fd);
}

bool socket_address_is_local(struct worker *worker, struct pod *pod, const struct addr *addr)
{
    const struct endpoint any_port = {.addr = *addr};
    bool local;

    if (pod_has_address(pod, addr))
        return true;
    if (enter(worker, pod) < 0)
        return false;
    (void)route_device(&worker->netlink, &any_port, &local);
    return local;
}

/* -errno: the source is not bound, or not known. */
static int source_of(int fd, const struct endpoint *target, struct endpoint *ret)
{
    struct sockaddr_storage sa;
    socklen_t len = sizeof(sa);

    if (getsockname(fd, (struct sockaddr *)&sa, &len) < 0)
        return -errno;
    if (endpoint_from_sockaddr((struct sockaddr *)&sa, ret) < 0)
        return -EAFNOSUPPORT;
    if (ret->port)
        return 0;
    /* From itself to itself, as the kernel would have it; but its port is needed now. (It may have the
     * address by a route alone.) */
    if (!addr_is_v4(&target->addr))
        (void)option(fd, IPPROTO_IPV6, IPV6_FREEBIND, 1);
    *ret = (struct endpoint){.addr = target->addr};
    len = (socklen_t)endpoint_to_sockaddr(ret, AF_UNSPEC, &sa);
    if (bind(fd, (struct sockaddr *)&sa, len) < 0)
        return -errno;
    len = sizeof(sa);
    if (getsockname(fd, (struct sockaddr *)&sa, &len) < 0)
        return -errno;
    return endpoint_from_sockaddr((struct sockaddr *)&sa, ret) < 0 ? -EAFNOSUPPORT : 0;
}

static void put_address(struct bruma_address *to, const struct addr *from)
{
    memcpy(to->bytes, from->bytes, sizeof(to->bytes));
}

/*
 * Of the addresses that a pod has, its program knows those that its network has named. A connection over lo
 * to another one would be taken for one of the pod's own, and handed to us again: the program is told of it
 * before it begins.
 */
static int register_delivery(const struct pod *pod, int fd, const struct endpoint *target)
{
    struct bruma_delivery key = {.netns_cookie = pod->cookie};
    struct bruma_delivery_made value = {};
    struct endpoint source = {0};
    struct timespec now;
    union bpf_attr attr = {};
    int map = __atomic_load_n(&pod->proxy->deliveries_map_fd, __ATOMIC_ACQUIRE), r;

    if (pod->redirected || pod_has_address(pod, &target->addr) || addr_is_loopback(&target->addr))
        return 0;
    if (map < 0)
        return -EOPNOTSUPP; /* an agent of before */
    r = source_of(fd, target, &source);
    if (r < 0)
        return r;
    clock_gettime(CLOCK_MONOTONIC, &now);
    value.registered_nanoseconds = (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
    put_address(&key.tuple.remote_address, &source.addr);
    put_address(&key.tuple.local_address, &target->addr);
    key.tuple.remote_port = source.port;
    key.tuple.local_port = target->port;
    attr.map_fd = (__u32)map;
    attr.key = (__u64)(uintptr_t)&key;
    attr.value = (__u64)(uintptr_t)&value;
    return syscall(SYS_bpf, BPF_MAP_UPDATE_ELEM, &attr, sizeof(attr)) < 0 ? -errno : 0;
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
        (void)option(fd, SOL_SOCKET, SO_BINDTOIFINDEX, (int)device);
    return local ? register_delivery(pod, fd, target) : 0;
}

/* The device that an accepted connection came by; 0: it cannot be told. */
static unsigned arrival_device(int fd)
{
    union {
        struct cmsghdr header;
        char bytes[256];
    } buf = {0};
    socklen_t len = sizeof(buf.bytes);
    struct msghdr msg = {.msg_control = &buf};
    struct in6_pktinfo info6;
    struct in_pktinfo info4;
    int r = option(fd, IPPROTO_IPV6, IPV6_2292PKTINFO, 1);

    if (r == 0) {
        r = getsockopt(fd, IPPROTO_IPV6, IPV6_2292PKTOPTIONS, &buf, &len);
    } else {
        r = option(fd, IPPROTO_IP, IP_PKTINFO, 1);
        if (r == 0)
            r = getsockopt(fd, IPPROTO_IP, IP_PKTOPTIONS, &buf, &len);
    }
    if (r < 0)
        return 0;
    msg.msg_controllen = len;
    for (struct cmsghdr *c = CMSG_FIRSTHDR(&msg); c; c = CMSG_NXTHDR(&msg, c)) {
        if (c->cmsg_level == IPPROTO_IPV6 && c->cmsg_len >= CMSG_LEN(sizeof(info6))) {
            memcpy(&info6, CMSG_DATA(c), sizeof(info6));
            return info6.ipi6_ifindex;
        }
        if (c->cmsg_level == IPPROTO_IP && c->cmsg_type == IP_PKTINFO &&
            c->cmsg_len >= CMSG_LEN(sizeof(info4))) {
            memcpy(&info4, CMSG_DATA(c), sizeof(info4));
            return (unsigned)info4.ipi_ifindex;
        }
    }
    return 0;
}

void socket_bind_arrival(struct worker *worker, struct pod *pod, int fd, const struct endpoint *client)
{
    unsigned device;
    bool local;

    if (pod->redirected || enter(worker, pod) < 0)
        return;
    device = route_device(&worker->netlink, client, &local);
    if (device && device == arrival_device(fd))
        (void)option(fd, SOL_SOCKET, SO_BINDTOIFINDEX, (int)device);
}

int socket_dial(struct worker *worker, struct pod *pod, const struct endpoint *target, bool *ret_connected)
{
    _cleanup_fd_ int fd = new_socket(worker, pod, addr_is_v4(&target->addr));
    int r;

    if (fd < 0)
        return fd;
    socket_keepalive(worker->settings, fd);
    r = exempt(worker->proxy, fd);
    if (r < 0)
        return r; /* never let our own socket be captured: it would come back to us */
    r = keep_off_lo(worker, pod, fd, target);
    if (r < 0)
        return r;
    r = start_connect(fd, target, ret_connected);
    return r < 0 ? r : take_fd(&fd);
}

/* One attempt of a delivery. */
struct attempt {
    struct worker_pod *wp;
    const struct endpoint *target;
    const struct addr *client; /* NULL: from the address that is dialed, which is the pod's own */
    uint16_t port;             /* to come from; 0: the kernel chooses */
    bool shared;               /* a port will do that the same client has used for another connection */
};

/* The port was taken after all; another one may do. A bind that fails with EADDRINUSE says that none is left.
 */
#define TAKEN (-EAGAIN)

/*
 * TIME_WAIT of a former delivery keeps its port from whoever does not say SO_REUSEADDR, and the kernel gives
 * such a port to a connection that is newer by its timestamps. Without it the kernel chooses one that nothing
 * has; it is said afterwards then, for the sake of those that come later.
 */
static int bind_source(const struct attempt *a, int fd, uint16_t *ret_port)
{
    struct endpoint source = {.addr = a->client ? *a->client : a->target->addr, .port = a->port}, bound;
    struct sockaddr_storage sa;
    socklen_t len = (socklen_t)endpoint_to_sockaddr(&source, AF_UNSPEC, &sa);
    int r = a->shared ? option(fd, SOL_SOCKET, SO_REUSEADDR, 1) : 0;

    if (r < 0)
        return r;
    if (bind(fd, (struct sockaddr *)&sa, len) < 0) {
        if (errno == EADDRNOTAVAIL && !a->client)
            return 0; /* not the pod's own, so it is left to the kernel altogether */
        return errno == EADDRINUSE && a->port ? TAKEN : -errno;
    }
    if (!a->shared)
        option(fd, SOL_SOCKET, SO_REUSEADDR, 1);
    len = sizeof(sa);
    if (getsockname(fd, (struct sockaddr *)&sa, &len) < 0)
        return -errno;
    if (endpoint_from_sockaddr((struct sockaddr *)&sa, &bound) < 0)
        return -EAFNOSUPPORT;
    *ret_port = bound.port;
    return live_connections_has(a->wp->pod->live_connections, &bound, a->target->port) ? TAKEN : 0;
}

static int deliver_once(const struct attempt *a, bool *ret_connected, uint16_t *ret_port)
{
    struct pod *pod = a->wp->pod;
    bool v4 = addr_is_v4(&a->target->addr);
    _cleanup_fd_ int fd = new_socket(a->wp->worker, pod, v4);
    int r = 0;

    if (fd < 0)
        return fd;
    *ret_port = 0;
    if (a->client) {
        r = option(fd, v4 ? IPPROTO_IP : IPPROTO_IPV6, v4 ? IP_TRANSPARENT : IPV6_TRANSPARENT, 1);
        /* Answers to a foreign address would leave the pod. A redirected pod's own rules bring them back:
         * they mark them as answers to our mark. */
        if (r == 0 && !pod->redirected)
            r = option(fd, SOL_SOCKET, SO_MARK, BRUMA_MARK);
        /* Bound to lo, the SYN shows lo's index to the pod's program; else it would come straight back to us.
         */
        if (r == 0 && !pod->redirected)
            r = option(fd, SOL_SOCKET, SO_BINDTOIFINDEX, BRUMA_LOOPBACK_IFINDEX);
    }
    if (r == 0)
        r = bind_source(a, fd, ret_port);
    if (r < 0)
        return r;
    /* From the pod's own address it is a connection as the pod makes to itself, which its program lets pass.
     * Bound to lo it would never see the answer: that shows the index of eth0. */
    r = register_delivery(pod, fd, a->target);
    if (r < 0)
        return r;
    r = start_connect(fd, a->target, ret_connected);
    if (r == -EADDRNOTAVAIL && *ret_port)
        r = TAKEN; /* by a live connection with just these addresses and ports */
    return r < 0 ? r : take_fd(&fd);
}

/* The calling thread is in the pod. */
static bool port_range(unsigned *low, unsigned *len)
{
    _cleanup_fd_ int fd = open("/proc/sys/net/ipv4/ip_local_port_range", O_RDONLY | O_CLOEXEC);
    unsigned high = 0;
    char text[32];
    ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);

    if (n <= 0)
        return false;
    text[n] = '\0';
    if (sscanf(text, "%u %u", low, &high) != 2 || high < *low || high > UINT16_MAX)
        return false;
    *len = high - *low + 1;
    return true;
}

/* Nothing is free of former connections: any port, also one that has not rested, or that a proxy before this
 * one has left. Which of them live only the attempt tells. */
static int deliver_from_any(struct attempt *a, bool *ret_connected, uint16_t *ret_port)
{
    struct worker_pod *wp = a->wp;
    unsigned low, len;
    int r = TAKEN;

    a->shared = true;
    for (int i = 0;
         i < DELIVERY_PORT_TRIES && r == TAKEN && (a->port = delivery_ports_take(&wp->ports, UINT64_MAX));
         i++)
        r = deliver_once(a, ret_connected, ret_port);
    if (r != TAKEN || !port_range(&low, &len))
        return r;
    for (int i = 0; i < DELIVERY_PORT_TRIES && r == TAKEN; i++) {
        a->port = (uint16_t)(low + worker_random(wp->worker) % len);
        r = deliver_once(a, ret_connected, ret_port);
    }
    return r;
}

/* Ports that were used before and have rested; then such as nothing has; then any. */
static int deliver_from(struct attempt *a, bool *ret_connected, uint16_t *ret_port)
{
    struct worker_pod *wp = a->wp;
    struct ports_scarce *scarce = &wp->ports_scarce[a->client != NULL];
    const struct addr *from = a->client ? a->client : &a->target->addr;
    uint64_t now = loop_now(wp->worker->loop);
    bool none_left = now < scarce->until && addr_equal(from, &scarce->address);
    int r = TAKEN;

    a->shared = true;
    for (int i = 0; i < DELIVERY_PORT_TRIES && r == TAKEN; i++) {
        a->port = delivery_ports_take(&wp->ports, now);
        if (!a->port)
            break;
        r = deliver_once(a, ret_connected, ret_port);
    }
    a->port = 0;
    a->shared = false;
    for (int i = 0; i < DELIVERY_PORT_TRIES && r == TAKEN && !none_left; i++)
        r = deliver_once(a, ret_connected, ret_port);
    if (r != TAKEN && r != -EADDRINUSE)
        return r;
    /* The kernel has looked at every port. It need not do so again for a while. */
    if (r == -EADDRINUSE)
        *scarce = (struct ports_scarce){*from, now + SCARCE_MILLISECONDS};
    r = deliver_from_any(a, ret_connected, ret_port);
    return r == TAKEN ? -EADDRINUSE : r;
}

static void log_hidden(struct worker_pod *wp, const struct endpoint *target, const struct addr *client)
{
    char to[ENDPOINT_TEXT_LEN], from[ADDR_TEXT_LEN];
    uint64_t now = loop_now(wp->worker->loop);

    telemetry_client_hidden(wp->worker->telemetry);
    if (now < wp->hidden_logged_until)
        return;
    wp->hidden_logged_until = now + LOG_AGAIN_MILLISECONDS;
    log_warn("no port is left under a client's address: its connections come from the pod's own\t"
             "pod=\"%s/%s\" client=%s destination=%s reason=%s",
             wp->pod->namespace, wp->pod->name, addr_format(client, from), endpoint_format(target, to),
             reason_name(BRUMA_REASON_CLIENT_ADDRESS_HIDDEN));
}

int socket_deliver(struct worker_pod *wp, const struct endpoint *target, const struct addr *client,
                   bool *ret_connected, uint16_t *ret_port)
{
    struct attempt a = {.wp = wp, .target = target, .client = client};
    int r;

    if (client && (addr_is_v4(client) != addr_is_v4(&target->addr) || addr_equal(client, &target->addr) ||
                   pod_has_address(wp->pod, client)))
        a.client = NULL;
    r = deliver_from(&a, ret_connected, ret_port);
    if (r == -EADDRINUSE && a.client) {
        a.client = NULL;
        r = deliver_from(&a, ret_connected, ret_port);
        if (r >= 0)
            log_hidden(wp, target, client);
    }
    if (r < 0)
        *ret_port = 0;
    return r;
}

void socket_delivery_over(struct worker_pod *wp, uint16_t port)
{
    if (!wp->deleted)
        delivery_ports_give(&wp->ports, port, loop_now(wp->worker->loop));
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
