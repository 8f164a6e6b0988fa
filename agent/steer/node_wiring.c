/* SPDX-License-Identifier: Apache-2.0 */
/* How a pod is wired to its node: the end of its veth that is in the agent's namespace. */
#include <errno.h>
#include <libmnl/libmnl.h>
#include <linux/if_link.h>
#include <linux/net_namespace.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <string.h>

#include "agent/steer/internal.h"
#include "agent/steer/node.h"
#include "agent/steer/pod_netlink.h"
#include "bruma/mesh.h"
#include "lib/cleanup.h"
#include "lib/netns.h"

#define REQUEST 512
#define NO_NSID (-1)

struct link {
    uint32_t index, peer; /* peer: in the other end's namespace; 0: it has none */
    int32_t nsid;         /* of that namespace, as the link's own numbers it; NO_NSID: the same one */
    bool veth;
};

static int on_info(const struct nlattr *a, void *data)
{
    struct link *l = data;

    if (mnl_attr_get_type(a) == IFLA_INFO_KIND && mnl_attr_validate(a, MNL_TYPE_NUL_STRING) >= 0)
        l->veth = !strcmp(mnl_attr_get_str(a), "veth");
    return MNL_CB_OK;
}

static int on_link_attribute(const struct nlattr *a, void *data)
{
    struct link *l = data;

    if (mnl_attr_get_type(a) == IFLA_LINK && mnl_attr_get_payload_len(a) == sizeof(uint32_t))
        l->peer = mnl_attr_get_u32(a);
    else if (mnl_attr_get_type(a) == IFLA_LINK_NETNSID && mnl_attr_get_payload_len(a) == sizeof(uint32_t))
        l->nsid = (int32_t)mnl_attr_get_u32(a);
    else if (mnl_attr_get_type(a) == IFLA_LINKINFO)
        (void)mnl_attr_parse_nested(a, on_info, l);
    return MNL_CB_OK;
}

static int parse_link(const struct nlmsghdr *h, struct link *ret)
{
    const struct ifinfomsg *info = mnl_nlmsg_get_payload(h);

    *ret = (struct link){.nsid = NO_NSID};
    if (h->nlmsg_type != RTM_NEWLINK || mnl_nlmsg_get_payload_len(h) < sizeof(*info))
        return -ENOENT;
    ret->index = (uint32_t)info->ifi_index;
    (void)mnl_attr_parse(h, sizeof(*info), on_link_attribute, ret);
    return 0;
}

/* ---- in the pod ---- */

struct pod_links {
    struct link only;
    int up;
};

static int on_pod_link(const struct nlmsghdr *h, void *data)
{
    struct pod_links *p = data;
    struct link l;

    if (parse_link(h, &l) < 0 || l.index == BRUMA_LOOPBACK_IFINDEX)
        return MNL_CB_OK;
    if (((const struct ifinfomsg *)mnl_nlmsg_get_payload(h))->ifi_flags & IFF_UP) {
        p->only = l;
        p->up++;
    }
    return MNL_CB_OK;
}

static int list_pod_links(int netns_fd, struct pod_links *ret)
{
    char buf[REQUEST];
    _cleanup_netns_ int home = netns_visit(netns_fd);
    struct mnl_socket *nl = home < 0 ? NULL : pod_netlink_open();
    struct nlmsghdr *h = mnl_nlmsg_put_header(buf);
    int r;

    if (!nl)
        return home < 0 ? home : -errno;
    h->nlmsg_type = RTM_GETLINK;
    h->nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP;
    mnl_nlmsg_put_extra_header(h, sizeof(struct ifinfomsg));
    r = pod_netlink_transact(nl, h, on_pod_link, ret);
    mnl_socket_close(nl);
    return r;
}

/* ---- on the node ---- */

static int on_nsid_attribute(const struct nlattr *a, void *data)
{
    if (mnl_attr_get_type(a) == NETNSA_NSID && mnl_attr_get_payload_len(a) == sizeof(uint32_t))
        *(int32_t *)data = (int32_t)mnl_attr_get_u32(a);
    return MNL_CB_OK;
}

static int on_nsid(const struct nlmsghdr *h, void *data)
{
    if (h->nlmsg_type == RTM_NEWNSID)
        (void)mnl_attr_parse(h, sizeof(struct rtgenmsg), on_nsid_attribute, data);
    return MNL_CB_STOP;
}

/* The number that the agent's namespace has for the pod's; NO_NSID if it has none. */
static int nsid_of(struct mnl_socket *nl, int netns_fd, int32_t *ret)
{
    char buf[REQUEST];
    struct nlmsghdr *h = mnl_nlmsg_put_header(buf);

    *ret = NO_NSID;
    h->nlmsg_type = RTM_GETNSID;
    h->nlmsg_flags = NLM_F_REQUEST;
    mnl_nlmsg_put_extra_header(h, sizeof(struct rtgenmsg));
    mnl_attr_put_u32(h, NETNSA_FD, (uint32_t)netns_fd);
    return pod_netlink_transact(nl, h, on_nsid, ret);
}

static int on_node_link(const struct nlmsghdr *h, void *data)
{
    (void)parse_link(h, data);
    return MNL_CB_STOP;
}

static int node_link(struct mnl_socket *nl, uint32_t index, struct link *ret)
{
    char buf[REQUEST];
    struct nlmsghdr *h = mnl_nlmsg_put_header(buf);
    struct ifinfomsg *info;

    *ret = (struct link){.nsid = NO_NSID};
    h->nlmsg_type = RTM_GETLINK;
    h->nlmsg_flags = NLM_F_REQUEST;
    info = mnl_nlmsg_put_extra_header(h, sizeof(*info));
    info->ifi_index = (int)index;
    return pod_netlink_transact(nl, h, on_node_link, ret);
}

struct qdiscs {
    uint32_t device;
    bool classifies; /* somebody has prepared the device for tc programs */
};

static int on_qdisc_attribute(const struct nlattr *a, void *data)
{
    struct qdiscs *q = data;

    if (mnl_attr_get_type(a) == TCA_KIND && mnl_attr_validate(a, MNL_TYPE_NUL_STRING) >= 0)
        q->classifies |= !strcmp(mnl_attr_get_str(a), "clsact") || !strcmp(mnl_attr_get_str(a), "ingress");
    return MNL_CB_OK;
}

static int on_qdisc(const struct nlmsghdr *h, void *data)
{
    const struct tcmsg *t = mnl_nlmsg_get_payload(h);
    struct qdiscs *q = data;

    if (h->nlmsg_type == RTM_NEWQDISC && mnl_nlmsg_get_payload_len(h) >= sizeof(*t) &&
        (uint32_t)t->tcm_ifindex == q->device)
        (void)mnl_attr_parse(h, sizeof(*t), on_qdisc_attribute, q);
    return MNL_CB_OK;
}

static int list_qdiscs(struct mnl_socket *nl, struct qdiscs *q)
{
    char buf[REQUEST];
    struct nlmsghdr *h = mnl_nlmsg_put_header(buf);
    struct tcmsg *t;

    h->nlmsg_type = RTM_GETQDISC;
    h->nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP;
    t = mnl_nlmsg_put_extra_header(h, sizeof(*t));
    t->tcm_ifindex = (int)q->device;
    return pod_netlink_transact(nl, h, on_qdisc, q);
}

/* The link that is to be the other end must say the same of the pod's: an index alone may be of anything. */
static enum steer_node_refusal look(struct mnl_socket *nl, int netns_fd, const struct link *own, int *r)
{
    struct qdiscs q = {.device = own->peer};
    struct link end;
    int32_t nsid;

    *r = nsid_of(nl, netns_fd, &nsid);
    if (*r < 0)
        return STEER_NODE_FAILED;
    *r = node_link(nl, own->peer, &end);
    if (*r == -ENODEV)
        return STEER_NODE_OTHER_NAMESPACE;
    if (*r < 0)
        return STEER_NODE_FAILED;
    if (!end.veth || end.peer != own->index || nsid == NO_NSID || end.nsid != nsid)
        return STEER_NODE_OTHER_NAMESPACE;
    *r = list_qdiscs(nl, &q);
    if (*r < 0)
        return STEER_NODE_FAILED;
    return q.classifies ? STEER_NODE_FOREIGN_PROGRAM : STEER_NODE_NONE;
}

enum steer_node_refusal steer_node_wiring(int netns_fd, struct steer_node_wiring *ret,
                                          struct steer_error *error)
{
    struct pod_links p = {};
    enum steer_node_refusal refusal;
    struct mnl_socket *nl;
    int r = list_pod_links(netns_fd, &p);

    if (r < 0) {
        steer_fail(error, BRUMA_REASON_ATTACH_FAILED, r, "the pod's devices cannot be listed");
        return STEER_NODE_FAILED;
    }
    if (p.up != 1)
        return STEER_NODE_SEVERAL_DEVICES;
    if (!p.only.veth)
        return STEER_NODE_NOT_VETH;
    if (!p.only.peer || p.only.nsid == NO_NSID)
        return STEER_NODE_OTHER_NAMESPACE;
    nl = pod_netlink_open();
    refusal = nl ? look(nl, netns_fd, &p.only, &r) : STEER_NODE_FAILED;
    if (!nl)
        r = -errno;
    if (nl)
        mnl_socket_close(nl);
    if (refusal == STEER_NODE_FAILED)
        steer_fail(error, BRUMA_REASON_ATTACH_FAILED, r, "the node's end of the pod's device");
    *ret = (struct steer_node_wiring){.device = p.only.peer, .inner = p.only.index};
    return refusal;
}
