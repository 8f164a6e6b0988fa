/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/steer/sockets.h"

#include <errno.h>
#include <libmnl/libmnl.h>
#include <linux/inet_diag.h>
#include <linux/sock_diag.h>
#include <netinet/in.h>
#include <stdlib.h>

#include "lib/cleanup.h"
#include "lib/netns.h"

#define DUMP_BUFFER 32768

struct listing {
    socket_seen_fn each;
    void *data;
};

static int see(const struct nlmsghdr *h, void *data)
{
    struct listing *l = data;
    const struct inet_diag_msg *m = mnl_nlmsg_get_payload(h);
    struct socket_seen s = {0};
    const struct nlattr *a;

    if (mnl_nlmsg_get_payload_len(h) < sizeof(*m))
        return MNL_CB_OK;
    s.inode = m->idiag_inode;
    s.cookie = (uint64_t)m->id.idiag_cookie[1] << 32 | m->id.idiag_cookie[0];
    s.port = ntohs(m->id.idiag_sport);
    s.family = m->idiag_family;
    mnl_attr_for_each(a, h, sizeof(*m))
    {
        if (mnl_attr_get_type(a) == INET_DIAG_MARK && mnl_attr_get_payload_len(a) == sizeof(uint32_t))
            s.mark = mnl_attr_get_u32(a);
    }
    l->each(&s, l->data);
    return MNL_CB_OK;
}

static int dump(struct mnl_socket *nl, int family, uint32_t states, uint16_t port, struct listing *l)
{
    _cleanup_free_ char *buf = malloc(DUMP_BUFFER);
    struct inet_diag_req_v2 *request;
    struct nlmsghdr *h;
    int r = 1;

    if (!buf)
        return -ENOMEM;
    h = mnl_nlmsg_put_header(buf);
    h->nlmsg_type = SOCK_DIAG_BY_FAMILY;
    h->nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP;
    h->nlmsg_seq = (uint32_t)family;
    request = mnl_nlmsg_put_extra_header(h, sizeof(*request));
    request->sdiag_family = (uint8_t)family;
    request->sdiag_protocol = IPPROTO_TCP;
    request->idiag_states = states;
    request->id.idiag_sport = htons(port);
    if (mnl_socket_sendto(nl, h, h->nlmsg_len) < 0)
        return -errno;
    while (r > 0) {
        ssize_t n = mnl_socket_recvfrom(nl, buf, DUMP_BUFFER);

        if (n < 0)
            return -errno;
        r = mnl_cb_run(buf, (size_t)n, (unsigned)family, mnl_socket_get_portid(nl), see, l);
    }
    return r < 0 ? -errno : 0;
}

static struct mnl_socket *open_inside(int netns_fd)
{
    _cleanup_netns_ int home = netns_visit(netns_fd);
    struct mnl_socket *nl;
    int r;

    if (home < 0) {
        errno = -home;
        return NULL;
    }
    nl = mnl_socket_open2(NETLINK_SOCK_DIAG, SOCK_CLOEXEC);
    r = nl && mnl_socket_bind(nl, 0, MNL_SOCKET_AUTOPID) < 0 ? errno : 0;
    netns_leave(&home);
    if (r) {
        mnl_socket_close(nl);
        errno = r;
        return NULL;
    }
    return nl;
}

int sockets_list(int netns_fd, uint32_t states, uint16_t port, socket_seen_fn each, void *data)
{
    struct listing l = {.each = each, .data = data};
    struct mnl_socket *nl = open_inside(netns_fd);
    int r;

    if (!nl)
        return -errno;
    r = dump(nl, AF_INET, states, port, &l);
    if (r == 0)
        r = dump(nl, AF_INET6, states, port, &l);
    mnl_socket_close(nl);
    return r;
}
