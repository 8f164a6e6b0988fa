/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/steer/pod_device.h"

#include <errno.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <stdbool.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "agent/steer/internal.h"
#include "agent/steer/pod_netlink.h"
#include "bruma/mesh.h"
#include "lib/cleanup.h"
#include "lib/netns.h"

#define DEVICES_MAX 64 /* of one pod, that are looked at */

/* Those that are up, beside lo. Returns how many. */
static int devices_up(uint32_t ret[DEVICES_MAX])
{
    _cleanup_fd_ int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    struct if_nameindex *all = fd < 0 ? NULL : if_nameindex();
    int n = 0;

    for (struct if_nameindex *i = all; i && i->if_index && n < DEVICES_MAX; i++) {
        struct ifreq request = {};

        snprintf(request.ifr_name, sizeof(request.ifr_name), "%s", i->if_name);
        if (i->if_index != BRUMA_LOOPBACK_IFINDEX && ioctl(fd, SIOCGIFFLAGS, &request) == 0 &&
            request.ifr_flags & IFF_UP)
            ret[n++] = i->if_index;
    }
    if (all)
        if_freenameindex(all);
    return n;
}

static struct nlmsghdr *message(char *buf, uint16_t type, uint16_t flags, int family, struct rtmsg **ret)
{
    struct nlmsghdr *h = mnl_nlmsg_put_header(buf);

    h->nlmsg_type = type;
    h->nlmsg_flags = NLM_F_REQUEST | flags;
    *ret = mnl_nlmsg_put_extra_header(h, sizeof(**ret));
    (*ret)->rtm_family = (uint8_t)family;
    return h;
}

static int add(struct mnl_socket *nl, uint32_t table, uint32_t device, uint32_t metric, const uint8_t *half,
               const struct addr *source)
{
    char buf[NETLINK_BUFFER];
    struct rtmsg *route;
    struct nlmsghdr *h = message(buf, RTM_NEWROUTE, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL, AF_INET, &route);
    int r;

    route->rtm_type = RTN_LOCAL;
    route->rtm_scope = RT_SCOPE_HOST;
    route->rtm_protocol = BRUMA_ROUTE_PROTOCOL;
    mnl_attr_put_u32(h, RTA_TABLE, table);
    mnl_attr_put_u32(h, RTA_OIF, device);
    if (metric)
        mnl_attr_put_u32(h, RTA_PRIORITY, metric);
    if (half) {
        route->rtm_dst_len = 1;
        mnl_attr_put(h, RTA_DST, 4, half);
    }
    if (source) {
        uint8_t raw[16];
        size_t n = addr_to_bytes(source, raw);

        mnl_attr_put(h, RTA_PREFSRC, n, raw);
    }
    r = pod_netlink_transact(nl, h, NULL, NULL);
    return r == -EEXIST ? 0 : r;
}

int pod_devices_cut(struct mnl_socket *nl, uint32_t table, const struct addr *source)
{
    static const uint8_t halves[2][4] = {{0}, {128}};
    uint32_t devices[DEVICES_MAX];
    int n = devices_up(devices), first = 0, r;

    for (int i = 0; i < 2; i++) {
        r = add(nl, table, BRUMA_LOOPBACK_IFINDEX, 0, halves[i], source);
        first = first ? first : r;
    }
    for (int i = 0; i < n && !first; i++) {
        r = add(nl, table, devices[i], devices[i], NULL,
                NULL); /* the metric: behind lo's, and one for each */
        first = first ? first : r;
    }
    return first;
}

/* ---- what the routes say ---- */

struct ways {
    const struct steer_pod *pod;
    uint32_t device;
    bool cut, everywhere, refused, own;
};

static bool is_link_local6(const struct addr *addr)
{
    return addr->bytes[0] == 0xfe && (addr->bytes[1] & 0xc0) == 0x80;
}

/* One that programs know as the pod's without asking the kernel, or that leads nowhere else in any case. */
static bool is_named(const struct steer_pod *pod, const struct addr *addr)
{
    if (is_link_local6(addr))
        return true;
    for (int i = 0; i < pod->addresses_len && i < BRUMA_POD_ADDRESSES; i++) {
        if (addr_equal(&pod->addresses[i], addr))
            return true;
    }
    return false;
}

/* Whether the route makes addresses the pod's own that nobody has named. */
static bool makes_own(const struct ways *ways, const struct rtmsg *route, const struct nlattr *destination)
{
    const unsigned all = route->rtm_family == AF_INET ? 32 : 128;
    struct addr addr;

    if (route->rtm_protocol == BRUMA_ROUTE_PROTOCOL && route->rtm_dst_len <= 1)
        return false;
    if (!destination ||
        addr_from_bytes(mnl_attr_get_payload(destination), mnl_attr_get_payload_len(destination), &addr) < 0)
        return true;
    return !addr_is_loopback(&addr) && (route->rtm_dst_len != all || !is_named(ways->pod, &addr));
}

static int on_route(const struct nlmsghdr *h, void *data)
{
    const struct rtmsg *route = mnl_nlmsg_get_payload(h);
    const struct nlattr *a, *destination = NULL;
    struct ways *ways = data;
    uint32_t device = 0;

    if (h->nlmsg_type != RTM_NEWROUTE || mnl_nlmsg_get_payload_len(h) < sizeof(*route))
        return MNL_CB_OK;
    mnl_attr_for_each(a, h, sizeof(*route))
    {
        if (mnl_attr_get_type(a) == RTA_OIF && mnl_attr_get_payload_len(a) == sizeof(uint32_t))
            device = mnl_attr_get_u32(a);
        else if (mnl_attr_get_type(a) == RTA_DST)
            destination = a;
    }
    switch (route->rtm_type) {
    case RTN_UNREACHABLE:
    case RTN_BLACKHOLE:
    case RTN_PROHIBIT:
    case RTN_THROW:
        ways->refused |= route->rtm_family == AF_INET;
        break;
    case RTN_LOCAL:
        ways->cut |=
            device == ways->device && !route->rtm_dst_len && route->rtm_protocol == BRUMA_ROUTE_PROTOCOL;
        ways->own |= makes_own(ways, route, destination);
        break;
    case RTN_UNICAST:
        ways->everywhere |= route->rtm_family == AF_INET && device == ways->device && !route->rtm_dst_len &&
                            (route->rtm_table == RT_TABLE_MAIN || route->rtm_table == RT_TABLE_DEFAULT);
        break;
    default:
        break;
    }
    return MNL_CB_OK;
}

/* The same whether a socket is bound to the device or not. */
static bool leads_alike(const struct steer_pod *pod, uint32_t device)
{
    struct ways ways = {.pod = pod, .device = device};
    struct mnl_socket *nl = pod_netlink_open();
    char buf[NETLINK_BUFFER];
    struct rtmsg *route;
    int r, r6;

    if (!nl)
        return false;
    r = pod_netlink_transact(nl, message(buf, RTM_GETROUTE, NLM_F_DUMP, AF_INET, &route), on_route, &ways);
    r6 = pod_netlink_transact(nl, message(buf, RTM_GETROUTE, NLM_F_DUMP, AF_INET6, &route), on_route, &ways);
    mnl_socket_close(nl);
    if (r < 0 || (r6 < 0 && r6 != -EOPNOTSUPP && r6 != -EAFNOSUPPORT) || ways.own)
        return false;
    /* IPv6 heeds its routes. */
    return pod_no_family_here() & BRUMA_POD_NO_IPV4 || (ways.cut && ways.everywhere && !ways.refused);
}

uint32_t pod_only_device(const struct steer_pod *pod)
{
    _cleanup_netns_ int home = netns_visit(pod->netns_fd);
    uint32_t devices[DEVICES_MAX];

    return home >= 0 && devices_up(devices) == 1 && devices[0] <= BRUMA_POD_DEVICE_MAX &&
                   leads_alike(pod, devices[0])
               ? devices[0]
               : 0;
}
