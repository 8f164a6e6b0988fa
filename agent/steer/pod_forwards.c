/* SPDX-License-Identifier: Apache-2.0 */
/* Devices of a pod behind which others are, whose packets the pod passes on: the hooks see its own sockets
 * alone. */
#include <errno.h>
#include <libmnl/libmnl.h>
#include <linux/if_link.h>
#include <linux/if_tun.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "agent/steer/internal.h"
#include "agent/steer/pod_netlink.h"
#include "agent/steer/pod_numbers.h"
#include "lib/cleanup.h"
#include "lib/netns.h"

#define BUFFER       512
#define NO_NAMESPACE (-1)
#define SEEN_MAX     32 /* veth devices whose ends are compared; more of them are looked at no more */

struct device {
    char name[IF_NAMESIZE], kind[16];
    int namespace; /* where the other end is, as the pod numbers it */
    uint8_t tun_type;
    bool up;
};

struct device_search {
    const char *own;   /* the device that the network has given */
    int own_namespace; /* where its other end is */
    char why[64];
    struct device veths[SEEN_MAX];
    int veths_len;
};

static int on_info(const struct nlattr *a, void *data)
{
    struct device *d = data;
    const struct nlattr *inner;

    if (mnl_attr_get_type(a) == IFLA_INFO_KIND && mnl_attr_validate(a, MNL_TYPE_NUL_STRING) >= 0)
        snprintf(d->kind, sizeof(d->kind), "%s", mnl_attr_get_str(a));
    if (mnl_attr_get_type(a) != IFLA_INFO_DATA || strcmp(d->kind, "tun") != 0)
        return MNL_CB_OK;
    mnl_attr_for_each_nested(inner, a)
    {
        if (mnl_attr_get_type(inner) == IFLA_TUN_TYPE && mnl_attr_get_payload_len(inner) == 1)
            d->tun_type = mnl_attr_get_u8(inner);
    }
    return MNL_CB_OK;
}

static int on_attribute(const struct nlattr *a, void *data)
{
    struct device *d = data;

    switch (mnl_attr_get_type(a)) {
    case IFLA_IFNAME:
        if (mnl_attr_validate(a, MNL_TYPE_NUL_STRING) >= 0)
            snprintf(d->name, sizeof(d->name), "%s", mnl_attr_get_str(a));
        break;
    case IFLA_LINK_NETNSID:
        if (mnl_attr_get_payload_len(a) == sizeof(uint32_t))
            d->namespace = (int)mnl_attr_get_u32(a);
        break;
    case IFLA_LINKINFO:
        (void)mnl_attr_parse_nested(a, on_info, d);
        break;
    default:
        break;
    }
    return MNL_CB_OK;
}

/* A tunnel of the pod itself (tun without frames, WireGuard) carries its own sockets' packets, which are
 * captured. */
static const char *what_it_is(const struct device *d)
{
    if (!strcmp(d->kind, "bridge"))
        return "a bridge";
    if (!strcmp(d->kind, "macvtap") || !strcmp(d->kind, "ipvtap"))
        return "a tap of a virtual machine";
    return !strcmp(d->kind, "tun") && d->tun_type == IFF_TAP ? "a tap" : NULL;
}

static int on_link(const struct nlmsghdr *h, void *data)
{
    struct device_search *s = data;
    const struct ifinfomsg *link = mnl_nlmsg_get_payload(h);
    struct device d = {.namespace = NO_NAMESPACE};
    const char *what;

    if (h->nlmsg_type != RTM_NEWLINK || mnl_nlmsg_get_payload_len(h) < sizeof(*link))
        return MNL_CB_OK;
    (void)mnl_attr_parse(h, sizeof(*link), on_attribute, &d);
    d.up = link->ifi_flags & IFF_UP;
    if (!strcmp(d.name, s->own)) {
        s->own_namespace = d.namespace;
        return MNL_CB_OK;
    }
    what = d.up ? what_it_is(&d) : NULL;
    if (what && !*s->why)
        snprintf(s->why, sizeof(s->why), "%s is %s", d.name, what);
    if (d.up && !strcmp(d.kind, "veth") && s->veths_len < SEEN_MAX)
        s->veths[s->veths_len++] = d;
    return MNL_CB_OK;
}

/* Another network of the pod has its end where the first one has it. */
static void compare_veths(struct device_search *s)
{
    for (int i = 0; i < s->veths_len && !*s->why && s->own_namespace != NO_NAMESPACE; i++) {
        const struct device *d = &s->veths[i];

        if (d->namespace != NO_NAMESPACE && d->namespace != s->own_namespace)
            snprintf(s->why, sizeof(s->why), "%s leads to another network namespace", d->name);
    }
}

static int list_links(struct device_search *s)
{
    char buf[BUFFER];
    struct mnl_socket *nl = mnl_socket_open2(NETLINK_ROUTE, SOCK_CLOEXEC | SOCK_NONBLOCK);
    struct nlmsghdr *h = mnl_nlmsg_put_header(buf);
    int r;

    if (!nl)
        return -errno;
    h->nlmsg_type = RTM_GETLINK;
    h->nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP;
    mnl_nlmsg_put_extra_header(h, sizeof(struct ifinfomsg));
    r = mnl_socket_bind(nl, 0, MNL_SOCKET_AUTOPID) < 0 ? -errno : pod_netlink_transact(nl, h, on_link, s);
    mnl_socket_close(nl);
    return r;
}

int steer_pod_forwards(int netns_fd, const char *own_device, char *why, size_t size)
{
    struct device_search s = {.own = own_device, .own_namespace = NO_NAMESPACE};
    _cleanup_netns_ int home = netns_visit(netns_fd);
    int r = home < 0 ? home : list_links(&s);

    if (r < 0)
        return r;
    compare_veths(&s);
    snprintf(why, size, "%s", s.why);
    return *s.why ? 1 : 0;
}
