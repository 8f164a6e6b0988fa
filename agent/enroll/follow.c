/* SPDX-License-Identifier: Apache-2.0 */
/* What the kernel reports of a pod's network namespace, and when that is a reason to look at the pod. */
#include <errno.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "agent/enroll/forwards.h"
#include "agent/enroll/member.h"
#include "agent/enroll/watchdog.h"
#include "bruma/mesh.h"
#include "lib/netns.h"
#include "lib/reasons.h"

#define LOG_SCOPE "watchdog"
#include "lib/log.h"

#define HINTS_A_TURN 64   /* datagrams read at a time */
#define HINTS_A_LOOK 1024 /* read before a look, which sees all that they can tell of */
#define LOOK_SOON    50   /* milliseconds from the first hint on, so that a burst of hints is one look */

/* Somebody else's route in a table that may be ours (steer/pod_numbers.h). */
static bool may_be_in_ours(const struct rtmsg *route)
{
    return route->rtm_table >= BRUMA_ROUTE_TABLE && route->rtm_table < RT_TABLE_COMPAT &&
           route->rtm_protocol != BRUMA_ROUTE_PROTOCOL;
}

/* Somebody else's by which the pod's connections may not go by its device any more, or may again
 * (steer/pod_device.h): what refuses, what makes addresses the pod's own, and a way to everywhere. */
static bool changes_the_way(const struct rtmsg *route)
{
    switch (route->rtm_type) {
    case RTN_UNREACHABLE:
    case RTN_BLACKHOLE:
    case RTN_PROHIBIT:
    case RTN_THROW:
    case RTN_LOCAL:
        return route->rtm_protocol != BRUMA_ROUTE_PROTOCOL;
    default:
        return !route->rtm_dst_len;
    }
}

/* Our own changes cause such messages too; they are only a reason to look. */
static bool matters(struct pod *pod, const char *buf, size_t len)
{
    for (const struct nlmsghdr *h = (const struct nlmsghdr *)buf; NLMSG_OK(h, len); h = NLMSG_NEXT(h, len)) {
        switch (h->nlmsg_type) {
        case RTM_NEWRULE: /* perhaps before ours */
        case RTM_DELRULE:
        case RTM_DELROUTE:
        case RTM_DELADDR: /* routes whose source it was go, or lose that, without a message */
        case RTM_NEWADDR: /* perhaps the first of its family; or what was missing can be repaired now */
            return true;
        case RTM_NEWROUTE: {
            const struct rtmsg *route = NLMSG_DATA(h);

            if (h->nlmsg_flags & NLM_F_REPLACE || may_be_in_ours(route) || changes_the_way(route))
                return true;
            break;
        }
        case RTM_NEWLINK:
        case RTM_DELLINK: /* its routes go with lo, without a message; others may be what it forwards by */
            following_of(pod)->links_changed = true;
            return true;
        default:
            break;
        }
    }
    return false;
}

/* Reads what is there, limit datagrams at the most. True if it is a reason to look. */
static bool read_hints(struct pod *pod, int limit)
{
    char buf[16384] __attribute__((aligned(NLMSG_ALIGNTO)));
    bool look = false;

    for (int i = 0; i < limit; i++) {
        ssize_t n = recv(following_of(pod)->routes_fd, buf, sizeof(buf), MSG_DONTWAIT);

        if (n < 0 && errno == ENOBUFS) {
            look = true; /* some were lost */
            continue;
        }
        if (n <= 0)
            return look;
        look |= matters(pod, buf, (size_t)n);
    }
    /* Who floods its own tables is looked at now and then, and not read after. */
    return true;
}

/* Nothing is read between a hint and the look that it leads to. */
static void on_routes(struct loop_watch *watch, uint32_t events)
{
    struct member *m = container_of(watch, struct member, following.routes);

    (void)events;
    if (!read_hints(&m->pod, HINTS_A_TURN))
        return;
    loop_watch_remove(m->agent->loop, watch);
    watchdog_try_again(&m->pod);
    watchdog_look(m->agent, &m->pod);
}

static int routes_socket(int netns_fd)
{
    struct sockaddr_nl addr = {.nl_family = AF_NETLINK,
                               .nl_groups = RTMGRP_LINK | RTMGRP_IPV4_IFADDR | RTMGRP_IPV6_IFADDR |
                                            RTMGRP_IPV4_RULE | RTMGRP_IPV4_ROUTE | RTMGRP_IPV6_ROUTE |
                                            (1u << (RTNLGRP_IPV6_RULE - 1))};
    _cleanup_netns_ int home = netns_visit(netns_fd);

    if (home < 0)
        return home;
    _cleanup_fd_ int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, NETLINK_ROUTE);

    if (fd < 0)
        return -errno;
    if (bind(fd, (struct sockaddr *)&addr, sizeof(addr)) < 0)
        return -errno;
    return take_fd(&fd);
}

void watchdog_follow(struct agent *agent, struct pod *pod)
{
    struct following *f = following_of(pod);
    int r = 0;

    if (f->routes.fd >= 0 || loop_timer_armed(&f->verify_soon))
        return;
    if (f->routes_fd < 0) {
        r = routes_socket(pod->netns_fd);
        if (r >= 0) {
            f->routes_fd = r;
            r = 0;
        }
    }
    if (r == 0)
        r = loop_watch_add(agent->loop, &f->routes, f->routes_fd, EPOLLIN, on_routes);
    if (r < 0 && !f->unfollowed)
        log_warn_errno(
            r,
            "rules and routes of a pod cannot be followed; the timer verifies them, and it is tried "
            "again\tpod=\"%s/%s\"",
            pod->namespace, pod->name);
    f->unfollowed = r < 0;
}

bool watchdog_follows(const struct pod *pod)
{
    return following_of(pod)->routes.fd >= 0;
}

static void on_verify_soon(struct loop_timer *timer)
{
    struct member *m = container_of(timer, struct member, following.verify_soon);
    struct following *f = &m->following;
    struct agent *agent = m->agent;
    struct pod *pod = &m->pod;

    f->looked_at = loop_now(agent->loop);
    if (f->routes_fd >= 0)
        (void)read_hints(pod, HINTS_A_LOOK);
    agent->verify_pod(agent, pod);
    if (f->links_changed && pod->enrollment->state == POD_ENROLLED) {
        f->links_changed = false;
        forwards_look(agent, pod);
    }
}

/* A pod that is a reason to look again and again is looked at less and less soon, but as soon as the timer
 * would. */
void watchdog_look(struct agent *agent, struct pod *pod)
{
    struct following *f = following_of(pod);
    uint64_t now = loop_now(agent->loop), slowest = agent->settings->verify_interval;

    if (loop_timer_armed(&f->verify_soon))
        return;
    if (!f->looked_at || now - f->looked_at > slowest || !f->look_wait)
        f->look_wait = LOOK_SOON;
    f->verify_soon.fn = on_verify_soon;
    loop_timer_set(agent->loop, &f->verify_soon, f->look_wait < slowest ? f->look_wait : slowest);
    f->look_wait *= 2;
}
