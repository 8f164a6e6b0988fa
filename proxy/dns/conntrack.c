/* SPDX-License-Identifier: Apache-2.0 */
/* Where netfilter rules redirect datagrams, only conntrack knows where they were sent. */
#include <arpa/inet.h>
#include <errno.h>
#include <libmnl/libmnl.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netfilter/nfnetlink_conntrack.h>
#include <resolv.h>
#include <string.h>

#include "bruma/mesh.h"
#include "proxy/dns/dns_private.h"
#include "proxy/socket/route_device.h"
#include "proxy/socket/socket_internal.h"

#define REQUEST_SIZE 256
#define ANSWER_SIZE  4096

static void put_tuple(struct nlmsghdr *h, const struct endpoint *from, const struct endpoint *to)
{
    bool v4 = addr_is_v4(&from->addr);
    struct nlattr *tuple = mnl_attr_nest_start(h, CTA_TUPLE_REPLY),
                  *part = mnl_attr_nest_start(h, CTA_TUPLE_IP);

    mnl_attr_put(h, v4 ? CTA_IP_V4_SRC : CTA_IP_V6_SRC, v4 ? 4 : 16, from->addr.bytes + (v4 ? 12 : 0));
    mnl_attr_put(h, v4 ? CTA_IP_V4_DST : CTA_IP_V6_DST, v4 ? 4 : 16, to->addr.bytes + (v4 ? 12 : 0));
    mnl_attr_nest_end(h, part);
    part = mnl_attr_nest_start(h, CTA_TUPLE_PROTO);
    mnl_attr_put_u8(h, CTA_PROTO_NUM, IPPROTO_UDP);
    mnl_attr_put_u16(h, CTA_PROTO_SRC_PORT, htons(from->port));
    mnl_attr_put_u16(h, CTA_PROTO_DST_PORT, htons(to->port));
    mnl_attr_nest_end(h, part);
    mnl_attr_nest_end(h, tuple);
}

static struct nlmsghdr *request(char *buf, const struct endpoint *from, const struct endpoint *to)
{
    struct nlmsghdr *h = mnl_nlmsg_put_header(buf);
    struct nfgenmsg *g;

    h->nlmsg_type = NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_GET;
    h->nlmsg_flags = NLM_F_REQUEST;
    g = mnl_nlmsg_put_extra_header(h, sizeof(*g));
    g->nfgen_family = addr_is_v4(&from->addr) ? AF_INET : AF_INET6;
    g->version = NFNETLINK_V0;
    put_tuple(h, from, to);
    return h;
}

static void read_address(const struct nlattr *ip, struct endpoint *ret)
{
    const struct nlattr *a;

    mnl_attr_for_each_nested(a, ip)
    {
        uint16_t type = mnl_attr_get_type(a);

        if (type == CTA_IP_V4_DST || type == CTA_IP_V6_DST)
            (void)addr_from_bytes(mnl_attr_get_payload(a), mnl_attr_get_payload_len(a), &ret->addr);
    }
}

static void read_port(const struct nlattr *protocol, struct endpoint *ret)
{
    const struct nlattr *a;

    mnl_attr_for_each_nested(a, protocol)
    {
        if (mnl_attr_get_type(a) == CTA_PROTO_DST_PORT && mnl_attr_get_payload_len(a) == sizeof(uint16_t))
            ret->port = ntohs(mnl_attr_get_u16(a));
    }
}

static int on_entry(const struct nlmsghdr *h, void *data)
{
    const struct nlattr *a, *part;

    mnl_attr_for_each(a, h, sizeof(struct nfgenmsg))
    {
        if (mnl_attr_get_type(a) != CTA_TUPLE_ORIG)
            continue;
        mnl_attr_for_each_nested(part, a)
        {
            if (mnl_attr_get_type(part) == CTA_TUPLE_IP)
                read_address(part, data);
            else if (mnl_attr_get_type(part) == CTA_TUPLE_PROTO)
                read_port(part, data);
        }
    }
    return MNL_CB_STOP;
}

/* Of the namespace that the thread is in. It never blocks: the kernel answers while it is asked. */
static bool open_netlink(struct dns_pod *d)
{
    if (d->conntrack)
        return true;
    d->conntrack = mnl_socket_open2(NETLINK_NETFILTER, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (d->conntrack && mnl_socket_bind(d->conntrack, 0, MNL_SOCKET_AUTOPID) < 0)
        route_device_close(&d->conntrack);
    return d->conntrack != NULL;
}

static int ask(struct dns_pod *d, const struct endpoint *client, const struct endpoint *arrival,
               struct endpoint *ret)
{
    char out[REQUEST_SIZE], in[ANSWER_SIZE];
    struct nlmsghdr *h = request(out, arrival, client);
    struct endpoint found = {};
    ssize_t n;
    int r;

    r = socket_enter(d->wp->worker, d->wp->pod);
    if (r < 0)
        return r;
    if (!open_netlink(d))
        return -errno;
    if (mnl_socket_sendto(d->conntrack, h, h->nlmsg_len) < 0 ||
        (n = mnl_socket_recvfrom(d->conntrack, in, sizeof(in))) < 0) {
        r = -errno;
        route_device_close(&d->conntrack); /* an answer that comes late is not for the next question */
        return r;
    }
    if (mnl_cb_run(in, (size_t)n, 0, 0, on_entry, &found) < 0)
        return -errno;
    if (addr_is_none(&found.addr) || !found.port)
        return -ENOENT;
    *ret = found;
    return 0;
}

/* The proxy's own server, which serves the pods of most clusters as well. */
static int own_server(struct endpoint *ret)
{
    struct __res_state state = {};
    int r = -ENOENT;

    if (res_ninit(&state) < 0)
        return -ENOENT;
    if (state.nscount > 0)
        r = endpoint_from_sockaddr(state.nsaddr_list[0].sin_family == AF_INET
                                       ? (struct sockaddr *)&state.nsaddr_list[0]
                                       : (struct sockaddr *)state._u._ext.nsaddrs[0],
                                   ret);
    res_nclose(&state);
    return r;
}

int conntrack_original(struct dns_pod *d, const struct endpoint *client, const struct endpoint *arrival,
                       struct endpoint *ret)
{
    int r = ask(d, client, arrival, ret);
    char buf[128];

    if (r == 0 && !endpoint_equal(ret, arrival))
        return 0;
    /* Nobody has redirected it: it was sent to our own port. */
    if (r == 0)
        return -EADDRNOTAVAIL;
    dns_pod_failed(d, arrival, BRUMA_REASON_DNS_SERVER_UNKNOWN, strerror_r(-r, buf, sizeof(buf)));
    return own_server(ret) == 0 ? 0 : r;
}
