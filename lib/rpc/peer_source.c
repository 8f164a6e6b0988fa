/* SPDX-License-Identifier: Apache-2.0 */
#include "lib/rpc/peer_source.h"

#include <linux/inet_diag.h>
#include <linux/netlink.h>
#include <linux/sock_diag.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <unistd.h>

#include "lib/cleanup.h"

struct diag_request {
    struct nlmsghdr header;
    struct inet_diag_req_v2 body;
};

static void put_endpoint(const struct endpoint *e, int family, __be32 address[4], __be16 *port)
{
    memset(address, 0, 4 * sizeof(*address));
    if (family == AF_INET)
        memcpy(address, e->addr.bytes + 12, 4);
    else
        memcpy(address, e->addr.bytes, 16);
    *port = htons(e->port);
}

static int ask(const struct endpoint *peer, const struct endpoint *own, int family, struct inet_diag_msg *ret)
{
    _cleanup_fd_ int fd = socket(AF_NETLINK, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, NETLINK_SOCK_DIAG);
    struct sockaddr_nl kernel = {.nl_family = AF_NETLINK};
    struct diag_request q = {
        .header = {.nlmsg_len = sizeof(q), .nlmsg_type = SOCK_DIAG_BY_FAMILY, .nlmsg_flags = NLM_F_REQUEST},
        .body = {.sdiag_family = (uint8_t)family, .sdiag_protocol = IPPROTO_TCP}};

    _Alignas(struct nlmsghdr) char answer[1024];
    const struct nlmsghdr *h = (const void *)answer;
    ssize_t n;

    if (fd < 0)
        return -errno;
    put_endpoint(peer, family, q.body.id.idiag_src, &q.body.id.idiag_sport);
    put_endpoint(own, family, q.body.id.idiag_dst, &q.body.id.idiag_dport);
    q.body.id.idiag_cookie[0] = q.body.id.idiag_cookie[1] = INET_DIAG_NOCOOKIE;
    if (sendto(fd, &q, sizeof(q), 0, (struct sockaddr *)&kernel, sizeof(kernel)) != (ssize_t)sizeof(q))
        return -errno;
    /* Sent and answered are one for a question about a single socket. */
    n = recv(fd, answer, sizeof(answer), MSG_DONTWAIT);
    if (n < (ssize_t)NLMSG_LENGTH(sizeof(*ret)) || h->nlmsg_type != SOCK_DIAG_BY_FAMILY ||
        h->nlmsg_len < NLMSG_LENGTH(sizeof(*ret)))
        return -ENOENT;
    memcpy(ret, NLMSG_DATA(h), sizeof(*ret));
    return 0;
}

/* Of a socket that its process has closed already the kernel says 0 for the user, and 0 for the inode. Where
 * there is no such connection it may answer with a listener. */
static bool names_an_owner(const struct inet_diag_msg *m, const struct endpoint *own)
{
    return m->idiag_state != TCP_LISTEN && m->idiag_inode && m->id.idiag_dport == htons(own->port);
}

void peer_source_get(int fd, struct peer_source *ret)
{
    struct sockaddr_storage sa = {0};
    struct inet_diag_msg found = {0};
    struct endpoint peer, own;
    struct ucred credentials;
    socklen_t len = sizeof(sa);
    int family;

    memset(ret, 0, sizeof(*ret));
    if (getpeername(fd, (struct sockaddr *)&sa, &len) < 0)
        return;
    if (sa.ss_family == AF_UNIX) {
        len = sizeof(credentials);
        if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &credentials, &len) == 0) {
            ret->is_user = true;
            ret->uid = credentials.uid;
        }
        return;
    }
    if (endpoint_from_sockaddr((struct sockaddr *)&sa, &peer) < 0)
        return;
    ret->addr = peer.addr;
    len = sizeof(sa);
    if (getsockname(fd, (struct sockaddr *)&sa, &len) < 0 ||
        endpoint_from_sockaddr((struct sockaddr *)&sa, &own) < 0)
        return;
    family = addr_is_v4(&peer.addr) ? AF_INET : AF_INET6;
    /* An IPv6 socket that talks to an IPv4 address is found among those of IPv4 as well. */
    if (ask(&peer, &own, family, &found) == 0 && names_an_owner(&found, &own)) {
        ret->is_user = true;
        ret->uid = found.idiag_uid;
        memset(&ret->addr, 0, sizeof(ret->addr));
    } else if (addr_is_loopback(&peer.addr)) {
        memset(&ret->addr, 0, sizeof(ret->addr));
    }
}

bool peer_source_equal(const struct peer_source *a, const struct peer_source *b)
{
    if (a->is_user != b->is_user)
        return false;
    if (a->is_user)
        return a->uid == b->uid;
    if (addr_is_v4(&a->addr) || addr_is_v4(&b->addr))
        return addr_equal(&a->addr, &b->addr);
    return !memcmp(a->addr.bytes, b->addr.bytes, 8);
}

const char *peer_source_format(const struct peer_source *source, char buf[ADDR_TEXT_LEN])
{
    if (source->is_user) {
        snprintf(buf, ADDR_TEXT_LEN, "uid-%u", (unsigned)source->uid);
        return buf;
    }
    return addr_format(&source->addr, buf);
}
