/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/direct/socket_destroy.h"

#include <errno.h>
#include <libmnl/libmnl.h>
#include <linux/inet_diag.h>
#include <linux/rtnetlink.h>
#include <linux/sock_diag.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "bruma/mesh.h"
#include "lib/addr.h"
#include "lib/cleanup.h"
#include "lib/netns.h"
#include "lib/seqpacket.h"

#ifndef SOCK_DESTROY
#define SOCK_DESTROY 21
#endif

#define BUFFER      8192
#define DEVICES_MAX 64
#define NO_COOKIE   UINT64_MAX /* whichever it has */

/* What a pod's applications accept is bound to the device that it came by, and the kernel finds a bound
 * socket by its device alone: so it is looked for at each of them. */
struct socket_destroyer {
    struct mnl_socket *diag;
    uint32_t devices[DEVICES_MAX]; /* the first is 0: not bound */
    size_t devices_len;
    uint32_t sequence;
    char buf[BUFFER];
};

static int see_device(const struct nlmsghdr *h, void *data)
{
    struct socket_destroyer *d = data;
    const struct ifinfomsg *link = mnl_nlmsg_get_payload(h);

    if (h->nlmsg_type == RTM_NEWLINK && mnl_nlmsg_get_payload_len(h) >= sizeof(*link) &&
        link->ifi_index != BRUMA_LOOPBACK_IFINDEX && d->devices_len < DEVICES_MAX)
        d->devices[d->devices_len++] = (uint32_t)link->ifi_index;
    return MNL_CB_OK;
}

static int list_devices(struct socket_destroyer *d, struct mnl_socket *route)
{
    struct nlmsghdr *h = mnl_nlmsg_put_header(d->buf);
    struct ifinfomsg *link;
    int r = 1;

    h->nlmsg_type = RTM_GETLINK;
    h->nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP;
    h->nlmsg_seq = ++d->sequence;
    link = mnl_nlmsg_put_extra_header(h, sizeof(*link));
    link->ifi_family = AF_UNSPEC;
    if (mnl_socket_sendto(route, h, h->nlmsg_len) < 0)
        return -errno;
    while (r > 0) {
        ssize_t n = mnl_socket_recvfrom(route, d->buf, sizeof(d->buf));

        if (n < 0)
            return -errno;
        r = mnl_cb_run(d->buf, (size_t)n, d->sequence, mnl_socket_get_portid(route), see_device, d);
    }
    return r < 0 ? -errno : 0;
}

static struct mnl_socket *open_here(int bus)
{
    struct mnl_socket *nl = mnl_socket_open2(bus, SOCK_CLOEXEC);
    int e;

    if (nl && mnl_socket_bind(nl, 0, MNL_SOCKET_AUTOPID) < 0) {
        e = errno;
        mnl_socket_close(nl);
        errno = e;
        return NULL;
    }
    return nl;
}

static int open_inside(struct socket_destroyer *d, int netns_fd)
{
    _cleanup_netns_ int home = netns_visit(netns_fd);
    struct mnl_socket *route;
    int r;

    if (home < 0)
        return home;
    d->diag = open_here(NETLINK_SOCK_DIAG);
    if (!d->diag)
        return -errno;
    route = open_here(NETLINK_ROUTE);
    if (!route)
        return -errno;
    d->devices[d->devices_len++] = 0;
    r = list_devices(d, route);
    /* what was cut off is bound to it */
    if (d->devices_len < DEVICES_MAX)
        d->devices[d->devices_len++] = BRUMA_LOOPBACK_IFINDEX;
    mnl_socket_close(route);
    return r;
}

int socket_destroyer_new(int netns_fd, struct socket_destroyer **ret)
{
    struct socket_destroyer *d = calloc(1, sizeof(*d));
    int r = d ? open_inside(d, netns_fd) : -ENOMEM;

    if (r < 0)
        socket_destroyer_free(&d);
    else
        *ret = d;
    return r;
}

void socket_destroyer_free(struct socket_destroyer **destroyer)
{
    struct socket_destroyer *d = *destroyer;

    if (d && d->diag)
        mnl_socket_close(d->diag);
    free(d);
    *destroyer = NULL;
}

static void put_address(uint32_t to[4], const struct bruma_address *from, bool v4)
{
    memcpy(to, from->bytes + (v4 ? 12 : 0), v4 ? 4 : 16);
}

static void put_request(struct socket_destroyer *d, const struct bruma_tuple *tuple, uint16_t type,
                        uint16_t flags, uint64_t cookie, uint32_t device, struct nlmsghdr **ret)
{
    struct nlmsghdr *h = mnl_nlmsg_put_header(d->buf);
    struct inet_diag_req_v2 *request;
    struct addr remote;
    bool v4;

    memcpy(remote.bytes, tuple->remote_address.bytes, sizeof(remote.bytes));
    v4 = addr_is_v4(&remote); /* reaches sockets of IPv6 with mapped addresses, too */
    h->nlmsg_type = type;
    h->nlmsg_flags = flags;
    h->nlmsg_seq = ++d->sequence;
    request = mnl_nlmsg_put_extra_header(h, sizeof(*request));
    request->sdiag_family = v4 ? AF_INET : AF_INET6;
    request->sdiag_protocol = IPPROTO_TCP;
    request->idiag_states = UINT32_MAX;
    request->id.idiag_sport = htons((uint16_t)tuple->local_port);
    request->id.idiag_dport = htons((uint16_t)tuple->remote_port);
    put_address(request->id.idiag_src, &tuple->local_address, v4);
    put_address(request->id.idiag_dst, &tuple->remote_address, v4);
    request->id.idiag_if = device;
    request->id.idiag_cookie[0] = (uint32_t)cookie;
    request->id.idiag_cookie[1] = (uint32_t)(cookie >> 32);
    *ret = h;
}

static int ask(struct socket_destroyer *d, const struct nlmsghdr *h, mnl_cb_t fn, void *data)
{
    ssize_t n;

    if (mnl_socket_sendto(d->diag, h, h->nlmsg_len) < 0)
        return -errno;
    n = mnl_socket_recvfrom(d->diag, d->buf, sizeof(d->buf));
    if (n < 0 || mnl_cb_run(d->buf, (size_t)n, d->sequence, mnl_socket_get_portid(d->diag), fn, data) < 0)
        return -errno;
    return 0;
}

static int destroy_at(struct socket_destroyer *d, const struct bruma_tuple *tuple, uint64_t cookie,
                      uint32_t device)
{
    struct nlmsghdr *h;

    put_request(d, tuple, SOCK_DESTROY, NLM_F_REQUEST | NLM_F_ACK, cookie, device, &h);
    return ask(d, h, NULL, NULL);
}

static int see_socket(const struct nlmsghdr *h, void *data)
{
    struct inet_diag_msg *found = data;

    if (mnl_nlmsg_get_payload_len(h) >= sizeof(*found))
        memcpy(found, mnl_nlmsg_get_payload(h), sizeof(*found));
    return MNL_CB_STOP;
}

/* Asked for a tuple that no connection has, the kernel finds the listener that a SYN would come to. */
static int find_at(struct socket_destroyer *d, const struct bruma_tuple *tuple, uint32_t device,
                   uint64_t *ret_cookie)
{
    struct inet_diag_msg found = {};
    struct nlmsghdr *h;
    int r;

    put_request(d, tuple, SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST, NO_COOKIE, device, &h);
    r = ask(d, h, see_socket, &found);
    if (r < 0)
        return r;
    if (found.idiag_state == TCP_LISTEN || found.idiag_state == TCP_TIME_WAIT ||
        found.idiag_state == TCP_CLOSE || found.id.idiag_dport != htons((uint16_t)tuple->remote_port))
        return -ENOENT;
    *ret_cookie = found.id.idiag_cookie[0] | (uint64_t)found.id.idiag_cookie[1] << 32;
    return 0;
}

int socket_destroy(struct socket_destroyer *d, const struct bruma_tuple *tuple, uint64_t cookie)
{
    int r = -ENOENT;

    /* ESTALE: a socket is there, and is another one. */
    for (size_t i = 0; i < d->devices_len && (r == -ENOENT || r == -ESTALE); i++)
        r = destroy_at(d, tuple, cookie, d->devices[i]);
    return r == -ESTALE ? -ENOENT : r;
}

int socket_find(struct socket_destroyer *d, const struct bruma_tuple *tuple, uint64_t *ret_cookie)
{
    int r = -ENOENT;

    /* What is bound to lo with the same tuple is a delivery of the proxy's. */
    for (size_t i = 0; i < d->devices_len && r == -ENOENT; i++) {
        if (d->devices[i] != BRUMA_LOOPBACK_IFINDEX)
            r = find_at(d, tuple, d->devices[i], ret_cookie);
    }
    return r;
}

int socket_destroy_any(struct socket_destroyer *d, const struct bruma_tuple *tuple)
{
    uint64_t cookie = 0;
    int r = socket_find(d, tuple, &cookie);

    return r < 0 ? r : socket_destroy(d, tuple, cookie);
}

/* ---- the trial ---- */

/* A listener, a connection to it, and what it accepted. */
static int connect_to_itself(int fds[3])
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
    socklen_t len = sizeof(at);

    for (int i = 0; i < 2; i++)
        fds[i] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fds[0] < 0 || fds[1] < 0 || bind(fds[0], (struct sockaddr *)&at, sizeof(at)) < 0 ||
        listen(fds[0], 1) < 0 || getsockname(fds[0], (struct sockaddr *)&at, &len) < 0 ||
        connect(fds[1], (struct sockaddr *)&at, sizeof(at)) < 0)
        return -errno;
    fds[2] = accept4(fds[0], NULL, NULL, SOCK_CLOEXEC);
    return fds[2] < 0 ? -errno : 0;
}

static int endpoint_of(int fd, bool peer, struct endpoint *ret)
{
    struct sockaddr_storage sa;
    socklen_t len = sizeof(sa);

    if ((peer ? getpeername(fd, (struct sockaddr *)&sa, &len)
              : getsockname(fd, (struct sockaddr *)&sa, &len)) < 0)
        return -errno;
    return endpoint_from_sockaddr((struct sockaddr *)&sa, ret);
}

bool socket_destroy_works(void)
{
    int fds[3] = {-1, -1, -1};
    struct socket_destroyer d = {.devices_len = 1};
    struct endpoint local = {}, remote = {};
    struct bruma_tuple tuple = {};
    uint64_t cookie;
    char byte;
    bool works = false;

    d.diag = open_here(NETLINK_SOCK_DIAG);
    if (d.diag && connect_to_itself(fds) == 0 && endpoint_of(fds[2], false, &local) == 0 &&
        endpoint_of(fds[2], true, &remote) == 0 && socket_cookie(fds[2], &cookie) == 0) {
        memcpy(tuple.local_address.bytes, local.addr.bytes, sizeof(local.addr.bytes));
        memcpy(tuple.remote_address.bytes, remote.addr.bytes, sizeof(remote.addr.bytes));
        tuple.local_port = local.port;
        tuple.remote_port = remote.port;
        works = socket_destroy(&d, &tuple, cookie) == 0 &&
                recv(fds[2], &byte, sizeof(byte), MSG_DONTWAIT) < 0 && errno == ECONNABORTED;
    }
    close_fds(fds, array_size(fds));
    if (d.diag)
        mnl_socket_close(d.diag);
    return works;
}
