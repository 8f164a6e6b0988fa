/* SPDX-License-Identifier: Apache-2.0 */
/* Connections from outside, on the device that they come by. */
#include <net/if.h>
#include <string.h>

#include "proxy/socket/route_device.h"
#include "proxy/socket/socket_internal.h"

#ifndef IP_PKTOPTIONS
#define IP_PKTOPTIONS 9
#endif
#ifndef SO_BINDTOIFINDEX
#define SO_BINDTOIFINDEX 62
#endif

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
    int r = socket_option(fd, IPPROTO_IPV6, IPV6_2292PKTINFO, 1);

    if (r == 0) {
        r = getsockopt(fd, IPPROTO_IPV6, IPV6_2292PKTOPTIONS, &buf, &len);
    } else {
        r = socket_option(fd, IPPROTO_IP, IP_PKTINFO, 1);
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

    if (pod->redirected || socket_enter(worker, pod) < 0)
        return;
    device = route_device(&worker->netlink, client, &local);
    if (device && device == arrival_device(fd))
        (void)socket_option(fd, SOL_SOCKET, SO_BINDTOIFINDEX, (int)device);
}
