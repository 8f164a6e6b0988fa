/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/steer/pod_numbers.h"

#include <errno.h>
#include <linux/fib_rules.h>
#include <linux/rtnetlink.h>
#include <netinet/in.h>
#include <string.h>

#include "agent/steer/internal.h"
#include "agent/steer/pod_netlink.h"
#include "bruma/mesh.h"
#include "lib/cleanup.h"

#define BUFFER      512
#define OURS_MAX    16 /* rules of ours that are looked at; there are three, and six while they move */
#define TABLE_TRIES 64
#define ROUTES_MAX  128                         /* of ours in one table */
#define LAST_FREE   (BRUMA_RULE_PREFERENCE + 2) /* of the main table: ours stand before it */

struct seen_rule {
    uint32_t preference, table, mark, mask;
    uint8_t action, protocol;
    bool dns; /* for DNS queries */
};

struct rules {
    struct seen_rule ours[OURS_MAX];
    int len;
    uint32_t first_other;           /* the least priority of others' rules, but that of the local table */
    uint8_t named[TABLE_TRIES / 8]; /* tables that others' rules name, from BRUMA_ROUTE_TABLE on */
    bool mark_taken;
};

struct routes {
    uint32_t table;
    bool other;
};

static void set(uint8_t *bits, uint32_t table)
{
    if (table >= BRUMA_ROUTE_TABLE && table < BRUMA_ROUTE_TABLE + TABLE_TRIES)
        bits[(table - BRUMA_ROUTE_TABLE) / 8] |= (uint8_t)(1 << (table - BRUMA_ROUTE_TABLE) % 8);
}

static bool is_named(const struct rules *r, uint32_t table)
{
    return table >= BRUMA_ROUTE_TABLE && table < BRUMA_ROUTE_TABLE + TABLE_TRIES &&
           r->named[(table - BRUMA_ROUTE_TABLE) / 8] & 1 << (table - BRUMA_ROUTE_TABLE) % 8;
}

static struct nlmsghdr *message(char *buf, uint16_t type, uint16_t flags, size_t size)
{
    struct nlmsghdr *h = mnl_nlmsg_put_header(buf);

    h->nlmsg_type = type;
    h->nlmsg_flags = NLM_F_REQUEST | flags;
    mnl_nlmsg_put_extra_header(h, size);
    return h;
}

/* Earlier versions gave theirs no protocol, and always the same numbers. */
static bool is_ours(const struct seen_rule *r)
{
    bool to_lo = r->action == FR_ACT_TO_TBL, prohibit = r->action == FR_ACT_PROHIBIT;

    if (r->dns)
        return to_lo && r->protocol == BRUMA_ROUTE_PROTOCOL;
    if (r->mark != BRUMA_MARK || r->mask != BRUMA_MARK_MASK || (!to_lo && !prohibit))
        return false;
    return r->protocol == BRUMA_ROUTE_PROTOCOL ||
           (r->protocol == RTPROT_UNSPEC && r->preference == BRUMA_RULE_PREFERENCE + (uint32_t)prohibit &&
            (prohibit || r->table == BRUMA_ROUTE_TABLE));
}

static void parse_rule(const struct nlmsghdr *h, struct seen_rule *ret)
{
    const struct fib_rule_hdr *header = mnl_nlmsg_get_payload(h);
    struct fib_rule_port_range ports = {0};
    uint8_t ip_protocol = 0;
    const struct nlattr *a;

    *ret = (struct seen_rule){.table = header->table, .action = header->action};
    mnl_attr_for_each(a, h, sizeof(*header))
    {
        uint16_t type = mnl_attr_get_type(a), len = mnl_attr_get_payload_len(a);

        if (type == FRA_PROTOCOL && len == 1)
            ret->protocol = mnl_attr_get_u8(a);
        else if (type == FRA_IP_PROTO && len == 1)
            ip_protocol = mnl_attr_get_u8(a);
        else if (type == FRA_DPORT_RANGE && len == sizeof(ports))
            memcpy(&ports, mnl_attr_get_payload(a), sizeof(ports));
        if (len != sizeof(uint32_t))
            continue;
        if (type == FRA_PRIORITY)
            ret->preference = mnl_attr_get_u32(a);
        else if (type == FRA_TABLE)
            ret->table = mnl_attr_get_u32(a);
        else if (type == FRA_FWMARK)
            ret->mark = mnl_attr_get_u32(a);
        else if (type == FRA_FWMASK)
            ret->mask = mnl_attr_get_u32(a);
    }
    ret->dns = ip_protocol == IPPROTO_UDP && ports.start == BRUMA_PORT_DNS && ports.end == BRUMA_PORT_DNS;
}

static int on_rule(const struct nlmsghdr *h, void *data)
{
    struct rules *rules = data;
    struct seen_rule r;

    if (h->nlmsg_type != RTM_NEWRULE || mnl_nlmsg_get_payload_len(h) < sizeof(struct fib_rule_hdr))
        return MNL_CB_OK;
    parse_rule(h, &r);
    if (is_ours(&r)) {
        if (rules->len < OURS_MAX)
            rules->ours[rules->len++] = r;
        return MNL_CB_OK;
    }
    if (r.action == FR_ACT_TO_TBL)
        set(rules->named, r.table);
    if (r.preference && r.preference < rules->first_other)
        rules->first_other = r.preference;
    rules->mark_taken |=
        (r.mask & BRUMA_MARK_MASK) == BRUMA_MARK_MASK && (r.mark & BRUMA_MARK_MASK) == BRUMA_MARK;
    return MNL_CB_OK;
}

static int list_rules(struct mnl_socket *nl, int family, struct rules *ret)
{
    char buf[BUFFER];
    struct nlmsghdr *h = message(buf, RTM_GETRULE, NLM_F_DUMP, sizeof(struct fib_rule_hdr));

    ((struct fib_rule_hdr *)mnl_nlmsg_get_payload(h))->family = (uint8_t)family;
    *ret = (struct rules){.first_other = LAST_FREE};
    return pod_netlink_transact(nl, h, on_rule, ret);
}

/* Ours, and what an earlier version has left. */
static bool is_our_route(const struct rtmsg *route, uint32_t device)
{
    return route->rtm_type == RTN_LOCAL && route->rtm_dst_len <= 1 &&
           (route->rtm_protocol == BRUMA_ROUTE_PROTOCOL ||
            (route->rtm_protocol == RTPROT_STATIC && device == BRUMA_LOOPBACK_IFINDEX));
}

static int on_route(const struct nlmsghdr *h, void *data)
{
    struct routes *routes = data;
    const struct rtmsg *route = mnl_nlmsg_get_payload(h);
    uint32_t table, device = 0;
    const struct nlattr *a;

    if (h->nlmsg_type != RTM_NEWROUTE || mnl_nlmsg_get_payload_len(h) < sizeof(*route))
        return MNL_CB_OK;
    table = route->rtm_table;
    mnl_attr_for_each(a, h, sizeof(*route))
    {
        if (mnl_attr_get_payload_len(a) != sizeof(uint32_t))
            continue;
        if (mnl_attr_get_type(a) == RTA_TABLE)
            table = mnl_attr_get_u32(a);
        else if (mnl_attr_get_type(a) == RTA_OIF)
            device = mnl_attr_get_u32(a);
    }
    if (table == routes->table && !is_our_route(route, device))
        routes->other = true;
    return MNL_CB_OK;
}

/* One that cannot be looked at to its end is somebody's. */
static bool has_other_routes(struct mnl_socket *nl, int family, uint32_t table)
{
    struct routes routes = {.table = table};
    char buf[BUFFER];
    struct nlmsghdr *h = message(buf, RTM_GETROUTE, NLM_F_DUMP, sizeof(struct rtmsg));
    int r;

    ((struct rtmsg *)mnl_nlmsg_get_payload(h))->rtm_family = (uint8_t)family;
    mnl_attr_put_u32(h, RTA_TABLE, table);
    r = pod_netlink_transact(nl, h, on_route, &routes);
    return routes.other || (r < 0 && r != -ENOENT);
}

/* The pair that is complete, or what is there of one. */
static void see_ours(const struct rules *rules, struct pod_numbers_seen *ret)
{
    for (int i = 0; i < rules->len; i++) {
        const struct seen_rule *r = &rules->ours[i];
        struct pod_numbers_seen seen = {.numbers = {r->table, r->preference}, .to_lo = true};

        if (r->action != FR_ACT_TO_TBL || r->dns)
            continue;
        for (int k = 0; k < rules->len; k++) {
            const struct seen_rule *other = &rules->ours[k];

            seen.prohibit |= other->action == FR_ACT_PROHIBIT && other->preference == r->preference + 1;
            seen.numbers.dns |= other->dns && other->preference == r->preference && other->table == r->table;
        }
        if (!ret->to_lo || (seen.prohibit && !ret->prohibit))
            *ret = seen;
    }
    ret->in_front = ret->to_lo && ret->numbers.preference + 1 < rules->first_other;
}

int pod_numbers_see(struct mnl_socket *nl, int family, struct pod_numbers_seen *ret)
{
    struct pod_numbers_seen seen = {};
    struct rules rules;
    int r = list_rules(nl, family, &rules);

    if (r < 0)
        return r;
    see_ours(&rules, &seen);
    if (seen.to_lo)
        seen.table_shared =
            is_named(&rules, seen.numbers.table) || has_other_routes(nl, family, seen.numbers.table);
    /* With a rule of somebody else at the least of priorities nobody can be before it. */
    seen.in_front |= seen.to_lo && rules.first_other <= 2;
    *ret = seen;
    return 0;
}

static int choose_table(struct mnl_socket *nl, int family, const struct rules *rules, uint32_t *ret)
{
    for (uint32_t table = BRUMA_ROUTE_TABLE; table < BRUMA_ROUTE_TABLE + TABLE_TRIES; table++) {
        if (!is_named(rules, table) && !has_other_routes(nl, family, table)) {
            *ret = table;
            return 0;
        }
    }
    return -EBUSY;
}

int pod_numbers_choose(struct mnl_socket *nl, int family, struct pod_numbers *ret, struct steer_error *error)
{
    struct pod_numbers numbers;
    const char *name = family == AF_INET ? "IPv4" : "IPv6";
    struct pod_numbers_seen seen = {};
    struct rules rules;
    int r = pod_numbers_see(nl, family, &seen);

    if (r == 0)
        r = list_rules(nl, family, &rules);
    if (r < 0)
        return r;
    numbers = seen.numbers;
    if (!seen.to_lo || !seen.in_front) {
        if (rules.first_other <= 2)
            return steer_fail(error, BRUMA_REASON_NUMBER_TAKEN, EBUSY,
                              "an %s rule of priority %u leaves no room before it", name, rules.first_other);
        numbers.preference = rules.first_other - 2;
    }
    if ((!seen.to_lo || seen.table_shared) && choose_table(nl, family, &rules, &numbers.table) < 0)
        return steer_fail(error, BRUMA_REASON_NUMBER_TAKEN, EBUSY,
                          "%s routing tables %u to %u are all in use", name, BRUMA_ROUTE_TABLE,
                          BRUMA_ROUTE_TABLE + TABLE_TRIES - 1);
    *ret = numbers;
    return 0;
}

void pod_numbers_put_dns(struct nlmsghdr *h)
{
    const struct fib_rule_port_range ports = {BRUMA_PORT_DNS, BRUMA_PORT_DNS};

    mnl_attr_put_strz(h, FRA_IIFNAME, "lo"); /* what the pod itself sends */
    mnl_attr_put_u8(h, FRA_IP_PROTO, IPPROTO_UDP);
    mnl_attr_put(h, FRA_DPORT_RANGE, sizeof(ports), &ports);
}

static int remove_rule(struct mnl_socket *nl, int family, const struct seen_rule *rule)
{
    char buf[BUFFER];
    struct nlmsghdr *h = message(buf, RTM_DELRULE, NLM_F_ACK, sizeof(struct fib_rule_hdr));
    struct fib_rule_hdr *header = mnl_nlmsg_get_payload(h);
    int r;

    header->family = (uint8_t)family;
    header->action = rule->action;
    mnl_attr_put_u32(h, FRA_PRIORITY, rule->preference);
    mnl_attr_put_u32(h, FRA_FWMARK, rule->mark);
    mnl_attr_put_u32(h, FRA_FWMASK, rule->mask);
    mnl_attr_put_u8(h, FRA_PROTOCOL, rule->protocol);
    if (rule->action == FR_ACT_TO_TBL)
        mnl_attr_put_u32(h, FRA_TABLE, rule->table);
    if (rule->dns)
        pod_numbers_put_dns(h);
    r = pod_netlink_transact(nl, h, NULL, NULL);
    return r == -ENOENT ? 0 : r;
}

/* One of them for each device, for IPv4 (pod_device.h); an earlier version's is of lo. */
static int remove_routes(struct mnl_socket *nl, int family, uint32_t table, uint8_t protocol)
{
    static const uint8_t halves[2][4] = {{0}, {128}};
    int r = 0;

    for (int i = 0; i < 2 && family == AF_INET && protocol == BRUMA_ROUTE_PROTOCOL; i++) {
        char buf[BUFFER];
        struct nlmsghdr *h = message(buf, RTM_DELROUTE, NLM_F_ACK, sizeof(struct rtmsg));
        struct rtmsg *route = mnl_nlmsg_get_payload(h);

        route->rtm_family = AF_INET;
        route->rtm_type = RTN_LOCAL;
        route->rtm_scope = RT_SCOPE_HOST;
        route->rtm_protocol = protocol;
        route->rtm_dst_len = 1;
        mnl_attr_put_u32(h, RTA_TABLE, table);
        mnl_attr_put(h, RTA_DST, sizeof(halves[i]), halves[i]);
        (void)pod_netlink_transact(nl, h, NULL, NULL);
    }

    for (int i = 0; r == 0 && i < ROUTES_MAX; i++) {
        char buf[BUFFER];
        struct nlmsghdr *h = message(buf, RTM_DELROUTE, NLM_F_ACK, sizeof(struct rtmsg));
        struct rtmsg *route = mnl_nlmsg_get_payload(h);

        route->rtm_family = (uint8_t)family;
        route->rtm_type = RTN_LOCAL;
        route->rtm_scope = RT_SCOPE_HOST;
        route->rtm_protocol = protocol;
        mnl_attr_put_u32(h, RTA_TABLE, table);
        if (protocol != BRUMA_ROUTE_PROTOCOL)
            mnl_attr_put_u32(h, RTA_OIF, BRUMA_LOOPBACK_IFINDEX);
        r = pod_netlink_transact(nl, h, NULL, NULL);
    }
    return r == -ESRCH || r == -ENOENT ? 0 : r;
}

int pod_numbers_remove(struct mnl_socket *nl, int family, const struct pod_numbers *except)
{
    struct rules rules;
    int r = list_rules(nl, family, &rules), first = r;

    for (int i = 0; r == 0 && i < rules.len; i++) {
        const struct seen_rule *rule = &rules.ours[i];
        bool to_lo = rule->action == FR_ACT_TO_TBL;
        int e = 0;

        if (except && (except->dns || !rule->dns) && rule->protocol == BRUMA_ROUTE_PROTOCOL &&
            rule->preference == except->preference + !to_lo && (!to_lo || rule->table == except->table))
            continue;
        e = remove_rule(nl, family, rule);
        if (e == 0 && to_lo && !rule->dns && !(except && rule->table == except->table))
            e = remove_routes(nl, family, rule->table,
                              rule->protocol == BRUMA_ROUTE_PROTOCOL ? BRUMA_ROUTE_PROTOCOL : RTPROT_STATIC);
        first = first ? first : e;
    }
    /* Somebody may have removed the rule that says in which table a route of ours is. */
    for (uint32_t i = 0; !except && i < TABLE_TRIES; i++)
        (void)remove_routes(nl, family, BRUMA_ROUTE_TABLE + i, BRUMA_ROUTE_PROTOCOL);
    return first;
}

int pod_numbers_check_mark(struct mnl_socket *nl, int family, struct steer_error *error)
{
    struct rules rules;
    int r = list_rules(nl, family, &rules);

    /* A family that cannot be listed is absent, or the next step says why. */
    if (r < 0 || !rules.mark_taken)
        return 0;
    return steer_fail(error, BRUMA_REASON_NUMBER_TAKEN, EBUSY,
                      "a rule of the pod is for packets with mark 0x%x/0x%x, which is the mesh's", BRUMA_MARK,
                      BRUMA_MARK_MASK);
}
