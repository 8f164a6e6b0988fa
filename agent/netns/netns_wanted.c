/* SPDX-License-Identifier: Apache-2.0 */
/* A pod that is looked for, and whether a namespace is its. */
#include <errno.h>
#include <ifaddrs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent/netns/netns_find.h"
#include "lib/cleanup.h"
#include "lib/netns.h"

struct netns_wanted *netns_wanted_by_uid(struct netns_wanted *wanted, size_t len, const char *uid,
                                         size_t uid_len)
{
    for (size_t i = 0; i < len; i++) {
        if (strlen(wanted[i].uid) == uid_len && !memcmp(wanted[i].uid, uid, uid_len))
            return &wanted[i];
    }
    return NULL;
}

static bool is_of_pod(const struct netns_wanted *w, const struct sockaddr *sa)
{
    struct endpoint e;

    if (!sa || endpoint_from_sockaddr(sa, &e) < 0)
        return false;
    for (int i = 0; i < w->addresses_len; i++) {
        if (addr_equal(&w->addresses[i], &e.addr))
            return true;
    }
    return false;
}

/* 1 if an interface of the namespace has an address of the pod. The thread comes back. */
static int holds_address(const struct netns_wanted *w, int fd)
{
    _cleanup_netns_ int home = netns_visit(fd);
    struct ifaddrs *all = NULL;
    int r, found = 0;

    if (home < 0)
        return home;
    r = getifaddrs(&all) < 0 ? -errno : 0;
    netns_leave(&home);
    for (struct ifaddrs *a = all; r == 0 && a && !found; a = a->ifa_next)
        found = is_of_pod(w, a->ifa_addr);
    if (all)
        freeifaddrs(all);
    return r < 0 ? r : found;
}

bool netns_take(struct netns_wanted *w, uint64_t own, const char *path, const char *container_id,
                const char *how)
{
    _cleanup_fd_ int fd = netns_open(path);
    uint64_t cookie = 0;
    int r = fd < 0 ? fd : netns_cookie(fd, &cookie);

    if (r == 0 && cookie == own)
        snprintf(w->error, sizeof(w->error), "%s leads to the node's own network namespace (%s)", path, how);
    else if (r == 0 && (r = holds_address(w, fd)) == 0)
        snprintf(w->error, sizeof(w->error), "%.150s has no address of the pod (%s)", path, how);
    else if (r < 0)
        snprintf(w->error, sizeof(w->error), "%.120s cannot be used: %s (%s)", path, strerror(-r), how);
    if (r <= 0 || strlen(path) >= sizeof(w->path))
        return false;
    w->fd = take_fd(&fd);
    w->cookie = cookie;
    w->how = how;
    snprintf(w->path, sizeof(w->path), "%s", path);
    snprintf(w->container_id, sizeof(w->container_id), "%s", container_id);
    w->error[0] = '\0';
    return true;
}
