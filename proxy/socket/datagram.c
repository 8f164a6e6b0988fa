/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/socket/datagram.h"

#include <errno.h>
#include <netinet/ip.h>
#include <netinet/ip6.h>
#include <netinet/udp.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include "bruma/mesh.h"
#include "proxy/socket/route_device.h"
#include "proxy/socket/socket_internal.h"

#define HOPS 64

static int set_mark(int fd, uint32_t mark)
{
    return setsockopt(fd, SOL_SOCKET, SO_MARK, &mark, sizeof(mark)) < 0 ? -errno : 0;
}

int datagram_dial(struct worker *worker, struct pod *pod, const struct endpoint *target)
{
    struct sockaddr_storage sa;
    socklen_t len = (socklen_t)endpoint_to_sockaddr(target, AF_UNSPEC, &sa);
    int r = socket_enter(worker, pod);
    _cleanup_fd_ int fd = -1;
    bool local = false;

    if (r < 0)
        return r;
    fd = socket(sa.ss_family, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return -errno;
    /* before connect(), which remembers the route */
    r = set_mark(fd, pod->redirected ? pod->packet_mark : BRUMA_MARK_QUESTION);
    if (r < 0)
        return r;
    if (connect(fd, (struct sockaddr *)&sa, len) < 0)
        return -errno;
    if (!pod->redirected && !pod_has_address(pod, &target->addr) && !addr_is_loopback(&target->addr))
        (void)route_device(&worker->netlink, target, &local);
    r = local ? socket_register_delivery(pod, fd, target) : 0;
    return r < 0 ? r : take_fd(&fd);
}

/* ---- answers ---- */

static uint32_t sum(uint32_t so_far, const void *data, size_t len)
{
    const uint8_t *p = data;

    for (; len > 1; p += 2, len -= 2)
        so_far += (uint32_t)p[0] << 8 | p[1];
    if (len)
        so_far += (uint32_t)p[0] << 8;
    return so_far;
}

/* RFC 8200 section 8.1; a sum of zero is sent as all ones. */
static uint16_t checksum6(const struct ip6_hdr *ip, const struct udphdr *udp, const void *data, size_t len)
{
    uint32_t s = sum(0, &ip->ip6_src, sizeof(ip->ip6_src));

    s = sum(s, &ip->ip6_dst, sizeof(ip->ip6_dst));
    s += IPPROTO_UDP + (uint32_t)(sizeof(*udp) + len);
    s = sum(sum(s, udp, sizeof(*udp)), data, len);
    while (s >> 16)
        s = (s & 0xffff) + (s >> 16);
    s = ~s & 0xffff;
    return htons((uint16_t)(s ? s : 0xffff));
}

static int open_sender(struct worker *worker, struct pod *pod, struct datagram_sender *sender, bool v4)
{
    int *fd = &sender->fds[!v4], r;

    if (*fd >= 0)
        return *fd;
    r = socket_enter(worker, pod);
    if (r < 0)
        return r;
    /* This protocol receives nothing, and says that headers are given. */
    *fd = socket(v4 ? AF_INET : AF_INET6, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, IPPROTO_RAW);
    return *fd < 0 ? -errno : *fd;
}

int datagram_send_as(struct worker *worker, struct pod *pod, struct datagram_sender *sender,
                     const struct endpoint *from, const struct endpoint *to, const void *data, size_t len)
{
    bool v4 = addr_is_v4(&to->addr);
    int fd = open_sender(worker, pod, sender, v4);
    struct udphdr udp = {.uh_sport = htons(from->port),
                         .uh_dport = htons(to->port),
                         .uh_ulen = htons((uint16_t)(sizeof(udp) + len))};
    struct iphdr ip4 = {.version = 4, .ihl = 5, .ttl = HOPS, .protocol = IPPROTO_UDP};
    struct ip6_hdr ip6 = {.ip6_nxt = IPPROTO_UDP, .ip6_hlim = HOPS, .ip6_plen = udp.uh_ulen};
    struct iovec parts[3] = {{&ip4, sizeof(ip4)}, {&udp, sizeof(udp)}, {(void *)(uintptr_t)data, len}};
    struct endpoint without_port = {.addr = to->addr};
    struct sockaddr_storage sa;
    struct msghdr message = {.msg_name = &sa, .msg_iov = parts, .msg_iovlen = 3};

    if (fd < 0)
        return fd;
    if (len > DATAGRAM_MAX || v4 != addr_is_v4(&from->addr))
        return -EINVAL;
    message.msg_namelen = (socklen_t)endpoint_to_sockaddr(&without_port, AF_UNSPEC, &sa);
    if (v4) {
        /* The kernel fills in the length and the header's checksum; UDP may go without one. */
        memcpy(&ip4.saddr, from->addr.bytes + 12, 4);
        memcpy(&ip4.daddr, to->addr.bytes + 12, 4);
    } else {
        ip6.ip6_vfc = 6 << 4;
        memcpy(&ip6.ip6_src, from->addr.bytes, 16);
        memcpy(&ip6.ip6_dst, to->addr.bytes, 16);
        udp.uh_sum = checksum6(&ip6, &udp, data, len);
        parts[0] = (struct iovec){&ip6, sizeof(ip6)};
    }
    return sendmsg(fd, &message, 0) < 0 ? -errno : 0;
}

void datagram_sender_close(struct datagram_sender *sender)
{
    for (int i = 0; i < 2; i++) {
        if (sender->fds[i] >= 0)
            close(sender->fds[i]);
    }
    *sender = DATAGRAM_SENDER_NONE;
}
