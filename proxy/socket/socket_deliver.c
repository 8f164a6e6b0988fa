/* SPDX-License-Identifier: Apache-2.0 */
/* Connections to the pod's application: from whose address, and from which port. */
#define LOG_SCOPE "socket"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>

#include "bruma/mesh.h"
#include "lib/log.h"
#include "lib/reasons.h"
#include "proxy/pod/live_connections.h"
#include "proxy/socket/socket_internal.h"

#ifndef SO_BINDTOIFINDEX
#define SO_BINDTOIFINDEX 62
#endif

#define DELIVERY_PORT_TRIES    16
#define SCARCE_MILLISECONDS    100
#define LOG_AGAIN_MILLISECONDS 60000

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
    int r = a->shared ? socket_option(fd, SOL_SOCKET, SO_REUSEADDR, 1) : 0;

    if (r < 0)
        return r;
    if (bind(fd, (struct sockaddr *)&sa, len) < 0) {
        if (errno == EADDRNOTAVAIL && !a->client)
            return 0; /* not the pod's own, so it is left to the kernel altogether */
        return errno == EADDRINUSE && a->port ? TAKEN : -errno;
    }
    if (!a->shared)
        socket_option(fd, SOL_SOCKET, SO_REUSEADDR, 1);
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
    _cleanup_fd_ int fd = socket_new(a->wp->worker, pod, v4);
    int r = 0;

    if (fd < 0)
        return fd;
    *ret_port = 0;
    if (a->client) {
        r = socket_option(fd, v4 ? IPPROTO_IP : IPPROTO_IPV6, v4 ? IP_TRANSPARENT : IPV6_TRANSPARENT, 1);
        /* Answers to a foreign address would leave the pod. A redirected pod's own rules bring them back:
         * they mark them as answers to our mark. */
        if (r == 0 && !pod->redirected)
            r = socket_option(fd, SOL_SOCKET, SO_MARK, BRUMA_MARK);
        /* Bound to lo, the SYN shows lo's index to the pod's program; else it would come straight back to us.
         */
        if (r == 0 && !pod->redirected)
            r = socket_option(fd, SOL_SOCKET, SO_BINDTOIFINDEX, BRUMA_LOOPBACK_IFINDEX);
    }
    if (r == 0)
        r = bind_source(a, fd, ret_port);
    if (r < 0)
        return r;
    /* From the pod's own address it is a connection as the pod makes to itself, which its program lets pass.
     * Bound to lo it would never see the answer: that shows the index of eth0. */
    r = socket_register_delivery(pod, fd, a->target);
    if (r < 0)
        return r;
    r = socket_start_connect(fd, a->target, ret_connected);
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
    log_warn("no port is left for a client's address: its connections come from the pod's own address\t"
             "pod=\"%s/%s\" client=%s destination=%s reason=%s",
             wp->pod->namespace, wp->pod->name, addr_format(client, from), endpoint_format(target, to),
             reason_name(BRUMA_REASON_CLIENT_ADDRESS_HIDDEN));
}

int socket_deliver(struct worker_pod *wp, const struct endpoint *target, const struct addr *client,
                   bool *ret_connected, uint16_t *ret_port)
{
    struct attempt a = {.wp = wp, .target = target, .client = client};
    int r;

    if (client && (wp->pod->hides_clients || addr_is_v4(client) != addr_is_v4(&target->addr) ||
                   addr_equal(client, &target->addr) || pod_has_address(wp->pod, client)))
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
