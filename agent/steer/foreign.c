/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Proxies that open their own listeners in pods. sk_lookup can only hand a connection to a socket that is in
 * the pod's SOCKMAP, and only who has a socket's descriptor can put it there. So the agent duplicates it out
 * of the proxy's process, looks at it, puts it in, and lets go of it again: were it kept, a listener that the
 * proxy has closed would go on to take connections that nobody accepts.
 */
#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/socket.h>

#include "agent/steer/internal.h"
#include "agent/steer/sockets.h"
#include "bruma/mesh.h"
#include "lib/cleanup.h"
#include "lib/netns.h"

#define CANDIDATES_MAX 32 /* listeners with one of our ports; processes of the pod may add theirs */
#define BACKLOG_MAX    65535

#ifndef SO_BINDTOIFINDEX
#define SO_BINDTOIFINDEX 62
#endif

static const uint16_t ports[BRUMA_LISTENER_COUNT] = {
    [BRUMA_LISTENER_OUTBOUND] = BRUMA_PORT_OUTBOUND,
    [BRUMA_LISTENER_INBOUND] = BRUMA_PORT_PLAINTEXT,
    [BRUMA_LISTENER_HBONE] = BRUMA_PORT_HBONE,
};

struct listener_candidate {
    uint64_t inode, cookie;
    int slot;
};

struct listener_candidates {
    struct listener_candidate list[CANDIDATES_MAX];
    int len, slot, of_slot[BRUMA_LISTENER_COUNT];
};

static void consider(const struct socket_seen *s, void *data)
{
    struct listener_candidates *c = data;

    if (c->len == CANDIDATES_MAX)
        return;
    c->list[c->len++] = (struct listener_candidate){.inode = s->inode, .cookie = s->cookie, .slot = c->slot};
    c->of_slot[c->slot]++;
}

static const struct listener_candidate *by_inode(const struct listener_candidates *c, uint64_t inode)
{
    for (int i = 0; i < c->len; i++) {
        if (c->list[i].inode == inode)
            return &c->list[i];
    }
    return NULL;
}

/* The number of the entry in /proc/PID/fd is the descriptor. */
static int take(const struct steer_process *process, const struct listener_candidate *c, int number, int *ret)
{
    _cleanup_fd_ int fd = pidfd_getfd(process->pidfd, number, 0);
    uint64_t cookie;

    if (fd < 0)
        return -errno;
    /* The process may have closed it and opened another one since the look. */
    if (socket_cookie(fd, &cookie) < 0 || cookie != c->cookie)
        return -ESTALE;
    if (*ret >= 0)
        return -EBUSY;
    *ret = take_fd(&fd);
    return 0;
}

/* Looks through the process's descriptors from number first on, up to end. */
static int search(const struct steer_process *process, const struct listener_candidates *c, bool all,
                  int first, int end, int found[BRUMA_LISTENER_COUNT], int *last)
{
    char path[64];
    struct dirent *e;
    int r = 0, missing = 0;
    DIR *dir;

    for (int i = 0; i < BRUMA_LISTENER_COUNT; i++)
        missing += found[i] < 0;
    snprintf(path, sizeof(path), "/proc/%d/fd", (int)process->pid);
    dir = opendir(path);
    if (!dir)
        return -errno;
    /* procfs lists them in order, and its position is the number behind "." and "..". */
    seekdir(dir, first + 2);
    while (r == 0 && (all || missing) && (e = readdir(dir))) {
        char target[64], *stop;
        long number = strtol(e->d_name, &stop, 10);
        const struct listener_candidate *one;
        uint64_t inode;
        ssize_t n;

        if (*stop || stop == e->d_name)
            continue;
        if (number >= end)
            break;
        n = readlinkat(dirfd(dir), e->d_name, target, sizeof(target) - 1);
        target[n > 0 ? n : 0] = '\0';
        if (sscanf(target, "socket:[%" SCNu64 "]", &inode) != 1 || !(one = by_inode(c, inode)))
            continue;
        r = take(process, one, (int)number, &found[one->slot]);
        missing -= r == 0;
        *last = (int)number;
        r = r == -ESTALE || r == -EBADF ? 0 : r;
    }
    closedir(dir);
    return r;
}

/* What our own listeners have and steering needs (see listeners.c). */
static int adjust(int fd, enum bruma_listener which)
{
    int on = 1, none = 0, lo = BRUMA_LOOPBACK_IFINDEX;

    if (setsockopt(fd, IPPROTO_IP, IP_TRANSPARENT, &on, sizeof(on)) < 0 ||
        setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) < 0)
        return -errno;
    /* What is accepted takes the proxy's mark from the listener, else that of the captured connection, which
     * it needs here: with IPv6 a socket that is bound to lo finds its way back by the pod's rule alone. */
    if (which == BRUMA_LISTENER_OUTBOUND &&
        (setsockopt(fd, SOL_SOCKET, SO_BINDTOIFINDEX, &lo, sizeof(lo)) < 0 ||
         setsockopt(fd, SOL_SOCKET, SO_MARK, &none, sizeof(none)) < 0))
        return -errno;
    /* One queue serves all ports of the pod. */
    return listen(fd, BACKLOG_MAX) < 0 ? -errno : 0;
}

static void close_all(int fds[BRUMA_LISTENER_COUNT])
{
    for (int i = 0; i < BRUMA_LISTENER_COUNT; i++) {
        if (fds[i] >= 0)
            close(fds[i]);
        fds[i] = -1;
    }
}

int steer_foreign_listeners(struct steer_process *process, int netns_fd, int ret[BRUMA_LISTENER_COUNT],
                            struct steer_error *error)
{
    int found[BRUMA_LISTENER_COUNT] = {-1, -1, -1}, first = process->first_fd, last = -1, r = 0;
    struct listener_candidates c = {0};
    bool all = false;

    for (c.slot = 0; r == 0 && c.slot < BRUMA_LISTENER_COUNT; c.slot++)
        r = sockets_list(netns_fd, 1u << TCP_LISTEN, ports[c.slot], consider, &c);
    if (r < 0)
        return steer_fail(error, BRUMA_REASON_PROXY_LISTENERS_MISSING, r,
                          "the pod's listening sockets cannot be listed");
    for (int i = 0; i < BRUMA_LISTENER_COUNT; i++) {
        if (!c.of_slot[i])
            return steer_fail(error, BRUMA_REASON_PROXY_LISTENERS_MISSING, ENOENT,
                              "nothing listens on port %u in the pod", ports[i]);
        all |= c.of_slot[i] > 1;
    }
    /* New descriptors mostly have the highest numbers: the whole table is looked through only if they have
     * not. */
    r = search(process, &c, all, all ? 0 : first, INT_MAX, found, &last);
    if (r == 0 && !all)
        r = search(process, &c, false, 0, first, found, &last);
    for (int i = 0; r == 0 && i < BRUMA_LISTENER_COUNT; i++) {
        if (found[i] < 0) {
            close_all(found);
            return steer_fail(error, BRUMA_REASON_PROXY_LISTENERS_MISSING, ENOENT,
                              "the listener on port %u in the pod is not one of the proxy's process",
                              ports[i]);
        }
        r = adjust(found[i], (enum bruma_listener)i);
    }
    if (r < 0) {
        close_all(found);
        return steer_fail(error, BRUMA_REASON_PROXY_LISTENERS_MISSING, r,
                          "the proxy's listeners cannot be taken over");
    }
    process->first_fd = last;
    memcpy(ret, found, sizeof(found));
    return 0;
}

/* ---- whether they live ---- */

struct looked_for {
    const uint64_t *cookies;
    bool found[BRUMA_LISTENER_COUNT];
};

static void recognise(const struct socket_seen *s, void *data)
{
    struct looked_for *l = data;

    for (int i = 0; i < BRUMA_LISTENER_COUNT; i++)
        l->found[i] |= l->cookies[i] == s->cookie;
}

int steer_foreign_listeners_live(int netns_fd, const uint64_t cookies[BRUMA_LISTENER_COUNT])
{
    struct looked_for l = {.cookies = cookies};
    int r = 0;

    for (int i = 0; r == 0 && i < BRUMA_LISTENER_COUNT; i++)
        r = sockets_list(netns_fd, 1u << TCP_LISTEN, ports[i], recognise, &l);
    if (r < 0)
        return r;
    for (int i = 0; i < BRUMA_LISTENER_COUNT; i++) {
        if (!l.found[i])
            return 0;
    }
    return 1;
}

/* ---- what still needs the route to lo ---- */

static void count_marked(const struct socket_seen *s, void *data)
{
    if ((s->mark & BRUMA_MARK_MASK) == BRUMA_MARK)
        ++*(int *)data;
}

int steer_marked_connections(int netns_fd)
{
    const uint32_t live = 1u << TCP_ESTABLISHED | 1u << TCP_SYN_SENT | 1u << TCP_FIN_WAIT1 |
                          1u << TCP_FIN_WAIT2 | 1u << TCP_CLOSE_WAIT | 1u << TCP_LAST_ACK | 1u << TCP_CLOSING;
    int n = 0, r = sockets_list(netns_fd, live, 0, count_marked, &n);

    return r < 0 ? r : n;
}
