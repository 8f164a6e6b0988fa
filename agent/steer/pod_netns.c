/* SPDX-License-Identifier: Apache-2.0 */
/* The pod's rule, route and sysctls, which bring marked connections back over lo. */
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <libmnl/libmnl.h>
#include <linux/fib_rules.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "agent/steer/internal.h"
#include "agent/steer/pod_device.h"
#include "agent/steer/pod_netlink.h"
#include "agent/steer/pod_numbers.h"
#include "agent/steer/quick_check.h"
#include "bruma/mesh.h"
#include "lib/cleanup.h"
#include "lib/netns.h"

static const int families[] = {AF_INET, AF_INET6};

static const struct {
    const char *path;
    uint32_t had;
    bool v6;
} sysctls[] = {
    {"/proc/sys/net/ipv4/tcp_fwmark_accept", BRUMA_POD_HAD_FWMARK_ACCEPT, false},
    {"/proc/sys/net/ipv4/fwmark_reflect", BRUMA_POD_HAD_FWMARK_REFLECT4, false},
    {"/proc/sys/net/ipv6/fwmark_reflect", BRUMA_POD_HAD_FWMARK_REFLECT6, true},
};

static_assert(array_size(sysctls) == QUICK_CHECK_SYSCTLS, "a quick check would miss some");

const char *pod_netns_sysctl(int index)
{
    return sysctls[index].path;
}

/* ---- sysctls; the calling thread is in the pod ---- */

static int read_sysctl(const char *path)
{
    _cleanup_fd_ int fd = open(path, O_RDONLY | O_CLOEXEC);
    char c;

    if (fd < 0)
        return -errno;
    return read(fd, &c, 1) == 1 ? c == '1' : -EIO;
}

static int write_sysctl(const char *path, bool on)
{
    _cleanup_fd_ int fd = open(path, O_WRONLY | O_CLOEXEC);

    if (fd < 0)
        return -errno;
    return write(fd, on ? "1" : "0", 1) == 1 ? 0 : -errno;
}

/* ---- netlink ---- */

struct route_seen {
    const struct addr *source; /* NULL: any */
    uint32_t table;
    bool found;
};

/* The second rule is for when the first one or the route is missing: what carries the mark would leave the
 * pod in plaintext then, such as an application's answers to what the proxy has delivered. */
enum rule { RULE_TO_LO, RULE_PROHIBIT, RULES, RULE_DNS };

static struct nlmsghdr *rule_message(char *buf, int family, const struct pod_numbers *n, enum rule which)
{
    struct nlmsghdr *h = mnl_nlmsg_put_header(buf);
    struct fib_rule_hdr *rule;

    h->nlmsg_type = RTM_NEWRULE;
    h->nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL;
    rule = mnl_nlmsg_put_extra_header(h, sizeof(*rule));
    rule->family = (uint8_t)family;
    mnl_attr_put_u32(h, FRA_PRIORITY, n->preference + (which == RULE_PROHIBIT));
    mnl_attr_put_u8(h, FRA_PROTOCOL, BRUMA_ROUTE_PROTOCOL);
    /* Of DNS queries those that have no mark: the proxy's have one, and so may those of a process that
     * sends packets by a way of its own. */
    mnl_attr_put_u32(h, FRA_FWMARK, which == RULE_DNS ? 0 : BRUMA_MARK);
    mnl_attr_put_u32(h, FRA_FWMASK, BRUMA_MARK_MASK);
    rule->action = which == RULE_PROHIBIT ? FR_ACT_PROHIBIT : FR_ACT_TO_TBL;
    if (which == RULE_PROHIBIT)
        return h;
    mnl_attr_put_u32(h, FRA_TABLE, n->table);
    if (which == RULE_DNS)
        pod_numbers_put_dns(h);
    if (which == RULE_DNS && family == AF_INET)
        mnl_attr_put_u32(h, FRA_SUPPRESS_PREFIXLEN, 0); /* pod_device.h */
    return h;
}

static struct nlmsghdr *route_message(char *buf, int family, uint32_t table, uint16_t type, uint16_t flags,
                                      const struct addr *source)
{
    struct nlmsghdr *h = mnl_nlmsg_put_header(buf);
    struct rtmsg *route;

    h->nlmsg_type = type;
    h->nlmsg_flags = NLM_F_REQUEST | flags;
    route = mnl_nlmsg_put_extra_header(h, sizeof(*route));
    route->rtm_family = (uint8_t)family;
    mnl_attr_put_u32(h, RTA_TABLE, table);
    if (type == RTM_GETROUTE)
        return h;
    route->rtm_type = RTN_LOCAL;
    route->rtm_scope = RT_SCOPE_HOST;
    route->rtm_protocol = BRUMA_ROUTE_PROTOCOL;
    mnl_attr_put_u32(h, RTA_OIF, BRUMA_LOOPBACK_IFINDEX);
    if (source) {
        uint8_t raw[16];
        size_t n = addr_to_bytes(source, raw);

        mnl_attr_put(h, RTA_PREFSRC, n, raw);
    }
    return h;
}

static uint32_t attribute_u32(const struct nlmsghdr *h, size_t header, uint16_t wanted, uint32_t otherwise)
{
    const struct nlattr *a;

    mnl_attr_for_each(a, h, header)
    {
        if (mnl_attr_get_type(a) == wanted && mnl_attr_get_payload_len(a) == sizeof(uint32_t))
            return mnl_attr_get_u32(a);
    }
    return otherwise;
}

static int see_route(const struct nlmsghdr *h, void *data)
{
    struct route_seen *seen = data;
    const struct rtmsg *route = mnl_nlmsg_get_payload(h);
    const struct nlattr *a;
    bool source_fits = !seen->source;

    if (route->rtm_type != RTN_LOCAL || route->rtm_dst_len || route->rtm_protocol != BRUMA_ROUTE_PROTOCOL ||
        attribute_u32(h, sizeof(*route), RTA_TABLE, route->rtm_table) != seen->table ||
        attribute_u32(h, sizeof(*route), RTA_OIF, 0) != BRUMA_LOOPBACK_IFINDEX)
        return MNL_CB_OK;
    mnl_attr_for_each(a, h, sizeof(*route))
    {
        struct addr found;

        if (seen->source && mnl_attr_get_type(a) == RTA_PREFSRC &&
            addr_from_bytes(mnl_attr_get_payload(a), mnl_attr_get_payload_len(a), &found) == 0)
            source_fits = addr_equal(&found, seen->source);
    }
    if (source_fits)
        seen->found = true;
    return MNL_CB_OK;
}

/* ---- one family ---- */

static const struct addr *source_of(const struct steer_pod *pod, int family)
{
    for (int i = 0; i < pod->addresses_len; i++) {
        if (addr_is_v4(&pod->addresses[i]) == (family == AF_INET))
            return &pod->addresses[i];
    }
    return NULL;
}

/* A pod without IPv6, or with it switched off, has IPv4 alone: that is a state, not a failure. */
static bool family_absent(const struct steer_pod *pod, int family, int error)
{
    return family == AF_INET6 && !source_of(pod, family) &&
           (error == -EAFNOSUPPORT || error == -EOPNOTSUPP || error == -EACCES || error == -ENODEV ||
            error == -EINVAL || error == -EPERM || error == -ENETUNREACH);
}

/* The kernel takes a source of IPv6 only once its duplicate address detection is over, and not after it was
 * taken from its device. */
static int add_route(struct mnl_socket *nl, const struct steer_pod *pod, int family, uint32_t table)
{
    const struct addr *source = source_of(pod, family);
    char buf[NETLINK_BUFFER];
    int r = pod_netlink_transact(
        nl, route_message(buf, family, table, RTM_NEWROUTE, NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE, source),
        NULL, NULL);

    if (r == -EINVAL && source)
        return -EAGAIN;
    return r == -EEXIST ? 0 : r;
}

/* The rules are set without the route too: what carries the mark is prohibited then. */
static int setup_family(struct mnl_socket *nl, const struct steer_pod *pod, int family,
                        struct steer_error *error)
{
    const char *name = family == AF_INET ? "IPv4" : "IPv6";
    struct pod_numbers numbers;
    char buf[NETLINK_BUFFER];
    int r = pod_numbers_choose(nl, family, &numbers, error), route;

    if (r == -EBUSY || (r < 0 && family_absent(pod, family, r)))
        return r == -EBUSY ? r : 0;
    if (r < 0)
        return steer_fail(error, BRUMA_REASON_ROUTE_SETUP_FAILED, r, "%s rules and routes", name);
    route = add_route(nl, pod, family, numbers.table);
    if (family == AF_INET)
        (void)pod_devices_cut(nl, numbers.table,
                              source_of(pod, family)); /* without it nothing goes directly */
    if (route < 0 && family_absent(pod, family, route))
        return 0;
    for (enum rule i = RULE_TO_LO; i < RULES; i++) {
        r = pod_netlink_transact(nl, rule_message(buf, family, &numbers, i), NULL, NULL);
        if (r < 0 && r != -EEXIST)
            return family_absent(pod, family, r)
                       ? 0
                       : steer_fail(error, BRUMA_REASON_ROUTE_SETUP_FAILED, r, "%s rule", name);
    }
    if (numbers.dns)
        (void)pod_netlink_transact(nl, rule_message(buf, family, &numbers, RULE_DNS), NULL, NULL);
    /* Those of before, where they had to move: nothing was without a rule meanwhile. */
    (void)pod_numbers_remove(nl, family, &numbers);
    if (route == -EAGAIN)
        return steer_fail(error, BRUMA_REASON_POD_ADDRESS_UNUSABLE, route,
                          "the pod's %s address is not on a device, or not yet to be used", name);
    return route < 0 ? steer_fail(error, BRUMA_REASON_ROUTE_SETUP_FAILED, route, "%s route to lo", name) : 0;
}

/* ---- inside the pod ---- */

struct inside {
    int home;
    struct mnl_socket *nl;
};

static int enter(int netns_fd, struct inside *in)
{
    in->nl = NULL;
    in->home = netns_visit(netns_fd);
    if (in->home < 0)
        return in->home;
    in->nl = pod_netlink_open();
    return 0;
}

static void leave(struct inside *in)
{
    if (in->nl)
        mnl_socket_close(in->nl);
    netns_leave(&in->home);
}

static int set_sysctls(uint32_t *former, struct steer_error *error)
{
    for (size_t i = 0; i < array_size(sysctls); i++) {
        int value = read_sysctl(sysctls[i].path), r;

        if (value < 0 && sysctls[i].v6)
            continue; /* no IPv6 */
        if (value == 1) {
            *former |= sysctls[i].had;
            continue;
        }
        r = write_sysctl(sysctls[i].path, true);
        if (r < 0)
            return steer_fail(error, BRUMA_REASON_SYSCTL_SETUP_FAILED, r, "%s", sysctls[i].path);
    }
    return 0;
}

/* All that can be done is done, whatever else fails: the first failure is told. */
int pod_netns_setup(const struct steer_pod *pod, uint32_t *former, struct steer_error *error)
{
    struct steer_error later;
    struct inside in;
    int r = enter(pod->netns_fd, &in), e;

    if (r < 0)
        return steer_fail(error, BRUMA_REASON_NETNS_UNUSABLE, r, "cannot enter the pod's network namespace");
    if (!in.nl)
        r = steer_fail(error, BRUMA_REASON_ROUTE_SETUP_FAILED, errno, "netlink");
    for (size_t i = 0; i < array_size(families) && in.nl; i++) {
        e = setup_family(in.nl, pod, families[i], r < 0 ? &later : error);
        r = r < 0 ? r : e;
    }
    e = set_sysctls(former, r < 0 ? &later : error);
    leave(&in);
    return r < 0 ? r : e;
}

int pod_netns_clean(int netns_fd, uint32_t former, struct steer_error *error)
{
    struct inside in;
    int r = enter(netns_fd, &in), e;

    if (r < 0)
        return steer_fail(error, BRUMA_REASON_NETNS_UNUSABLE, r, "cannot enter the pod's network namespace");
    for (size_t i = 0; i < array_size(families) && in.nl; i++) {
        e = pod_numbers_remove(in.nl, families[i], NULL);
        if (e < 0 && families[i] == AF_INET)
            r = steer_fail(error, BRUMA_REASON_ROUTE_SETUP_FAILED, e,
                           "cannot remove the rules and the route");
    }
    if (!in.nl)
        r = steer_fail(error, BRUMA_REASON_ROUTE_SETUP_FAILED, EIO, "netlink");
    for (size_t i = 0; i < array_size(sysctls); i++) {
        if (!(former & sysctls[i].had) && read_sysctl(sysctls[i].path) == 1)
            write_sysctl(sysctls[i].path, false);
    }
    leave(&in);
    return r;
}

/* A rule that somebody has put before ours would let out what an application answers. */
static int verify_family(struct mnl_socket *nl, const struct steer_pod *pod, int family,
                         struct pod_netns_state *state)
{
    struct pod_numbers_seen rules = {};
    struct route_seen route = {.source = source_of(pod, family)};
    char buf[NETLINK_BUFFER];
    int r = pod_numbers_see(nl, family, &rules);

    route.table = rules.to_lo ? rules.numbers.table : BRUMA_ROUTE_TABLE;
    if (r == 0)
        r = pod_netlink_transact(nl, route_message(buf, family, route.table, RTM_GETROUTE, NLM_F_DUMP, NULL),
                                 see_route, &route);
    if (r == -E2BIG)
        return r;
    /* Without an address of the family, setup may have found it absent; then there is nothing to miss. */
    if (r < 0 && r != -ENOENT && !route.source)
        return 0;
    if (!route.source && !route.found && !rules.to_lo)
        return 0;
    state->rule_missing |= !rules.to_lo || !rules.prohibit || !rules.in_front;
    state->route_missing |= !route.found || rules.table_shared;
    /* Devices come and go, and their routes with them. */
    if (family == AF_INET && rules.to_lo && !rules.table_shared)
        (void)pod_devices_cut(nl, rules.numbers.table, source_of(pod, family));
    return 0;
}

/* With the device its routes are gone, and none can be set. */
static bool loopback_down(void)
{
    struct ifreq request = {.ifr_ifindex = BRUMA_LOOPBACK_IFINDEX};
    _cleanup_fd_ int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

    return fd >= 0 && ioctl(fd, SIOCGIFNAME, &request) == 0 && ioctl(fd, SIOCGIFFLAGS, &request) == 0 &&
           !(request.ifr_flags & IFF_UP);
}

int pod_netns_verify(const struct steer_pod *pod, struct pod_netns_state *ret)
{
    struct inside in;
    int r = enter(pod->netns_fd, &in);

    *ret = (struct pod_netns_state){};
    if (r < 0)
        return r;
    ret->loopback_down = loopback_down();
    ret->no_family = pod_no_family_here();
    r = in.nl ? 0 : -errno;
    for (size_t i = 0; i < array_size(families) && r == 0; i++)
        r = verify_family(in.nl, pod, families[i], ret);
    for (size_t i = 0; i < array_size(sysctls); i++)
        ret->sysctl_changed |= read_sysctl(sysctls[i].path) == 0;
    leave(&in);
    return r;
}

/* ---- DNS queries ---- */

static int dns_family(struct mnl_socket *nl, const struct steer_pod *pod, int family, bool on)
{
    struct pod_numbers_seen seen = {};
    char buf[NETLINK_BUFFER];
    int r = pod_numbers_see(nl, family, &seen);

    if (r < 0)
        return family_absent(pod, family, r) ? 0 : r;
    if (!seen.to_lo || seen.numbers.dns == on)
        return 0;
    seen.numbers.dns = on;
    if (!on)
        return pod_numbers_remove(nl, family, &seen.numbers);
    r = pod_netlink_transact(nl, rule_message(buf, family, &seen.numbers, RULE_DNS), NULL, NULL);
    return r == -EEXIST ? 0 : r;
}

int pod_netns_dns(const struct steer_pod *pod, bool on, struct steer_error *error)
{
    struct inside in;
    int r = enter(pod->netns_fd, &in);

    if (r < 0)
        return steer_fail(error, BRUMA_REASON_NETNS_UNUSABLE, r, "cannot enter the pod's network namespace");
    r = in.nl ? 0 : -errno;
    for (size_t i = 0; i < array_size(families) && r == 0; i++)
        r = dns_family(in.nl, pod, families[i], on);
    leave(&in);
    return r < 0 ? steer_fail(error, BRUMA_REASON_ROUTE_SETUP_FAILED, r, "the rule for DNS queries") : 0;
}

int pod_netns_dns_lacks(const struct steer_pod *pod)
{
    struct inside in;
    int r = enter(pod->netns_fd, &in), lacks = 0;

    if (r < 0)
        return r;
    r = in.nl ? 0 : -errno;
    for (size_t i = 0; i < array_size(families) && r == 0; i++) {
        struct pod_numbers_seen seen = {};

        r = pod_numbers_see(in.nl, families[i], &seen);
        lacks += r == 0 && seen.to_lo && !seen.numbers.dns;
        if (r < 0 && family_absent(pod, families[i], r))
            r = 0;
    }
    leave(&in);
    return r < 0 ? r : lacks > 0;
}

int pod_netns_check_mark(const struct steer_pod *pod, struct steer_error *error)
{
    struct inside in;
    int r = enter(pod->netns_fd, &in);

    if (r < 0)
        return steer_fail(error, BRUMA_REASON_NETNS_UNUSABLE, r, "cannot enter the pod's network namespace");
    for (size_t i = 0; i < array_size(families) && in.nl && r == 0; i++)
        r = pod_numbers_check_mark(in.nl, families[i], error);
    leave(&in);
    return r;
}
