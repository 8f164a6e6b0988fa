/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/socket/route_device.h"

#include <arpa/inet.h>
#include <libmnl/libmnl.h>
#include <linux/rtnetlink.h>
#include <netinet/in.h>
#include <string.h>

#include "bruma/mesh.h"

#define REQUEST_SIZE 256
#define ANSWER_SIZE  4096

struct route_answer {
    unsigned char type;
    uint32_t device;
};

static int on_attribute(const struct nlattr *attribute, void *data)
{
    struct route_answer *answer = data;

    if (mnl_attr_get_type(attribute) == RTA_OIF && mnl_attr_validate(attribute, MNL_TYPE_U32) >= 0)
        answer->device = mnl_attr_get_u32(attribute);
    return MNL_CB_OK;
}

static int on_route(const struct nlmsghdr *h, void *data)
{
    struct route_answer *answer = data;
    const struct rtmsg *route = mnl_nlmsg_get_payload(h);

    if (h->nlmsg_type != RTM_NEWROUTE || mnl_nlmsg_get_payload_len(h) < sizeof(*route))
        return MNL_CB_STOP;
    answer->type = route->rtm_type;
    (void)mnl_attr_parse(h, sizeof(*route), on_attribute, data);
    return MNL_CB_STOP;
}

static struct nlmsghdr *request(char *buf, const struct endpoint *target)
{
    static unsigned sequence;
    bool v4 = addr_is_v4(&target->addr);
    struct nlmsghdr *h = mnl_nlmsg_put_header(buf);
    struct rtmsg *route;

    h->nlmsg_type = RTM_GETROUTE;
    h->nlmsg_flags = NLM_F_REQUEST;
    h->nlmsg_seq = __atomic_add_fetch(&sequence, 1, __ATOMIC_RELAXED);
    route = mnl_nlmsg_put_extra_header(h, sizeof(*route));
    route->rtm_family = v4 ? AF_INET : AF_INET6;
    route->rtm_dst_len = v4 ? 32 : 128;
    mnl_attr_put(h, RTA_DST, v4 ? 4 : 16, target->addr.bytes + (v4 ? 12 : 0));
    mnl_attr_put_u8(h, RTA_IP_PROTO, IPPROTO_TCP);
    mnl_attr_put_u16(h, RTA_DPORT, htons(target->port));
    return h;
}

void route_device_close(struct mnl_socket **netlink)
{
    if (*netlink)
        mnl_socket_close(*netlink);
    *netlink = NULL;
}

/* It never blocks: the kernel answers while the request is being sent. */
static bool open_netlink(struct mnl_socket **netlink)
{
    if (*netlink)
        return true;
    *netlink = mnl_socket_open2(NETLINK_ROUTE, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (*netlink && mnl_socket_bind(*netlink, 0, MNL_SOCKET_AUTOPID) < 0)
        route_device_close(netlink);
    return *netlink != NULL;
}

unsigned route_device(struct mnl_socket **netlink, const struct endpoint *target, bool *ret_local)
{
    char out[REQUEST_SIZE], in[ANSWER_SIZE];
    struct nlmsghdr *h = request(out, target);
    struct route_answer answer = {.type = RTN_UNSPEC};
    ssize_t n;

    *ret_local = false;
    if (!open_netlink(netlink))
        return 0;
    if (mnl_socket_sendto(*netlink, h, h->nlmsg_len) < 0 ||
        (n = mnl_socket_recvfrom(*netlink, in, sizeof(in))) < 0) {
        route_device_close(netlink); /* an answer that comes late is not for the next question */
        return 0;
    }
    (void)mnl_cb_run(in, (size_t)n, h->nlmsg_seq, mnl_socket_get_portid(*netlink), on_route, &answer);
    *ret_local = answer.type == RTN_LOCAL;
    return answer.type == RTN_UNICAST && answer.device != BRUMA_LOOPBACK_IFINDEX ? answer.device : 0;
}
