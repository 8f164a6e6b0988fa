/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/api/address_watch.h"

#include <errno.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "lib/cleanup.h"
#include "lib/netns.h"

#define LOG_SCOPE "cni"
#include "lib/log.h"

#define CHANGES_A_TURN 64 /* datagrams read at a time */
#define SETTLE         2  /* milliseconds from a change to the next try: a burst of changes is one */

/* Changes that a try makes itself are routes of another protocol, and no addresses. */
static bool is_of_kernel(const char *buf, size_t len)
{
    for (const struct nlmsghdr *h = (const struct nlmsghdr *)buf; NLMSG_OK(h, len); h = NLMSG_NEXT(h, len)) {
        const struct rtmsg *route = NLMSG_DATA(h);

        if (h->nlmsg_type == RTM_NEWADDR || h->nlmsg_type == RTM_DELADDR)
            return true;
        if (h->nlmsg_type == RTM_NEWROUTE && route->rtm_protocol == RTPROT_KERNEL &&
            route->rtm_type == RTN_LOCAL)
            return true;
    }
    return false;
}

static void on_changes(struct loop_watch *routes, uint32_t events)
{
    struct address_watch *w = container_of(routes, struct address_watch, routes);
    char buf[16384] __attribute__((aligned(NLMSG_ALIGNTO)));
    bool changed = false;

    (void)events;
    for (int i = 0; i < CHANGES_A_TURN; i++) {
        ssize_t n = recv(routes->fd, buf, sizeof(buf), MSG_DONTWAIT);

        if (n < 0 && errno != ENOBUFS)
            break;
        changed |= n < 0 || is_of_kernel(buf, (size_t)n); /* ENOBUFS: some were lost */
    }
    if (changed)
        loop_timer_set(w->loop, w->changed, SETTLE);
}

/* An fd, or -errno. */
static int open_routes(int netns_fd)
{
    struct sockaddr_nl groups = {.nl_family = AF_NETLINK,
                                 .nl_groups = RTMGRP_IPV4_IFADDR | RTMGRP_IPV6_IFADDR | RTMGRP_IPV4_ROUTE |
                                              RTMGRP_IPV6_ROUTE};
    _cleanup_netns_ int home = netns_visit(netns_fd);

    if (home < 0)
        return home;
    _cleanup_fd_ int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, NETLINK_ROUTE);

    if (fd < 0 || bind(fd, (struct sockaddr *)&groups, sizeof(groups)) < 0)
        return -errno;
    return take_fd(&fd);
}

void address_watch_init(struct address_watch *w, struct loop *loop, struct loop_timer *changed)
{
    *w = (struct address_watch){.loop = loop, .changed = changed, .routes.fd = -1};
}

void address_watch_wait(struct address_watch *w, int netns_fd, uint64_t limit)
{
    int fd, r;

    if (w->routes.fd >= 0) {
        loop_timer_set(w->loop, w->changed, limit);
        return;
    }
    fd = open_routes(netns_fd);
    r = fd < 0 ? fd : loop_watch_add(w->loop, &w->routes, fd, EPOLLIN, on_changes);
    if (r < 0) {
        log_warn_errno(r, "the addresses of a namespace cannot be watched; the time limit is waited for");
        w->routes.fd = -1;
        if (fd >= 0)
            close(fd);
    }
    loop_timer_set(w->loop, w->changed, r < 0 ? limit : 0);
}

void address_watch_end(struct address_watch *w)
{
    int fd = w->routes.fd;

    if (fd < 0)
        return;
    loop_watch_remove(w->loop, &w->routes);
    w->routes.fd = -1;
    close(fd);
}
