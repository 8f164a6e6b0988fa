/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/steer/quick_check.h"

#include <bpf/bpf.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "agent/steer/internal.h"
#include "lib/cleanup.h"
#include "lib/netns.h"

/* The kernel's times of files are as coarse as its clock's ticks: what changed since then cannot be told from
 * what changed just before. */
#define SETTLED (40 * 1000000ll) /* nanoseconds */

void steer_quick_check_init(struct steer_quick_check *g)
{
    *g = (struct steer_quick_check){.link = -1, .listeners = -1};
    for (int i = 0; i < QUICK_CHECK_SYSCTLS; i++)
        g->sysctls[i] = -1;
}

static void let_go(int fd)
{
    if (fd >= 0)
        close(fd);
}

void steer_quick_check_close(struct steer_quick_check *g)
{
    let_go(g->link);
    let_go(g->listeners);
    for (int i = 0; i < QUICK_CHECK_SYSCTLS; i++)
        let_go(g->sysctls[i]);
    steer_quick_check_init(g);
}

/* ---- the parts ---- */

static int look_at_link(int link, struct bpf_link_info *ret)
{
    __u32 len = sizeof(*ret);

    *ret = (struct bpf_link_info){};
    return bpf_obj_get_info_by_fd(link, ret, &len) < 0 ? -errno : 0;
}

static int look_at_pins(const struct steer *s, uint64_t cookie, struct stat *ret)
{
    char path[PATH_MAX / 4];

    if (steer_pod_pin_path(s, cookie, NULL, path, sizeof(path)) < 0)
        return -ENAMETOOLONG;
    return stat(path, ret) < 0 ? -errno : 0;
}

static int64_t nanoseconds(const struct timespec *ts)
{
    return (int64_t)ts->tv_sec * 1000000000 + ts->tv_nsec;
}

static bool is_on(int fd)
{
    char c;

    return fd < 0 || (pread(fd, &c, 1, 0) == 1 && c == '1');
}

static bool listens(int fd)
{
    int on = 0;
    socklen_t len = sizeof(on);

    return getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &on, &len) == 0 && on;
}

/* ---- arming ---- */

/* A descriptor shows the value of the namespace that it was opened in, wherever it is read. */
static int open_sysctls(int netns_fd, int fds[QUICK_CHECK_SYSCTLS])
{
    _cleanup_netns_ int home = netns_visit(netns_fd);
    int r = 0;

    if (home < 0)
        return home;
    for (int i = 0; i < QUICK_CHECK_SYSCTLS && r == 0; i++) {
        fds[i] = open(pod_netns_sysctl(i), O_RDONLY | O_CLOEXEC);
        if (fds[i] < 0 && errno != ENOENT)
            r = -errno;
    }
    return r;
}

/* Glances are a saving, and not worth a pod that finds no descriptor. */
static bool crowded(const struct steer_quick_check *g)
{
    struct rlimit limit;
    int highest = g->link > g->listeners ? g->link : g->listeners;

    for (int i = 0; i < QUICK_CHECK_SYSCTLS; i++)
        highest = g->sysctls[i] > highest ? g->sysctls[i] : highest;
    return getrlimit(RLIMIT_NOFILE, &limit) < 0 || (rlim_t)highest >= limit.rlim_cur - limit.rlim_cur / 4;
}

static int open_all(struct steer *s, const struct steer_pod *pod, struct steer_quick_check *g)
{
    int r;

    g->link = steer_pod_pin_open(s, pod->cookie, "link");
    g->listeners = steer_pod_pin_open(s, pod->cookie, "listeners");
    if (g->link < 0 || g->listeners < 0)
        return g->link < 0 ? g->link : g->listeners;
    r = open_sysctls(pod->netns_fd, g->sysctls);
    return r == 0 && crowded(g) ? -EMFILE : r;
}

static int64_t now(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_REALTIME, &ts);
    return nanoseconds(&ts);
}

static int remember(struct steer *s, const struct steer_pod *pod, struct steer_quick_check *g)
{
    struct bpf_link_info link;
    struct stat pins = {0};
    int r = look_at_link(g->link, &link);

    if (r == 0)
        r = look_at_pins(s, pod->cookie, &pins);
    if (r < 0)
        return r;
    if (!link.netns.netns_ino || now() - nanoseconds(&pins.st_mtim) < SETTLED)
        return -EAGAIN;
    for (__u32 i = 0; i < BRUMA_LISTENER_COUNT; i++) {
        uint64_t own;

        if (bpf_map_lookup_elem(g->listeners, &i, &g->slots[i]) < 0)
            return -errno;
        if (socket_cookie(pod->listeners[i], &own) < 0 || own != g->slots[i])
            return -ESTALE;
    }
    g->program_id = link.prog_id;
    g->netns_inode = link.netns.netns_ino;
    g->pins_inode = pins.st_ino;
    g->pins_changed = nanoseconds(&pins.st_mtim);
    return 0;
}

int steer_quick_check_arm(struct steer *s, const struct steer_pod *pod, struct steer_quick_check *g)
{
    int r;

    if (pod->foreign_listeners)
        return -EOPNOTSUPP; /* what becomes of a listener that only its proxy holds is found by a verification
                             */
    /* What is kept may be of pins that were replaced since. */
    steer_quick_check_close(g);
    r = open_all(s, pod, g);
    if (r == 0)
        r = remember(s, pod, g);
    if (r < 0)
        steer_quick_check_close(g);
    else
        g->armed = true;
    return r;
}

/* ---- looking ---- */

static bool is_same(struct steer *s, const struct steer_pod *pod, const struct steer_quick_check *g,
                    bool listeners)
{
    struct bpf_link_info link;
    struct stat pins = {0};

    if (look_at_link(g->link, &link) < 0 || link.prog_id != g->program_id ||
        link.netns.netns_ino != g->netns_inode)
        return false;
    if (look_at_pins(s, pod->cookie, &pins) < 0 || pins.st_ino != g->pins_inode ||
        nanoseconds(&pins.st_mtim) != g->pins_changed)
        return false;
    if (!pod_entry_fits(s, pod))
        return false;
    for (__u32 i = 0; i < BRUMA_LISTENER_COUNT; i++) {
        uint64_t in_slot;

        if (bpf_map_lookup_elem(g->listeners, &i, &in_slot) < 0 || in_slot != g->slots[i] ||
            (listeners && !listens(pod->listeners[i])))
            return false;
    }
    for (int i = 0; i < QUICK_CHECK_SYSCTLS; i++) {
        if (!is_on(g->sysctls[i]))
            return false;
    }
    return true;
}

bool steer_quick_check_same(struct steer *s, const struct steer_pod *pod, struct steer_quick_check *g,
                            bool listeners)
{
    if (g->armed && is_same(s, pod, g, listeners))
        return true;
    /* A link that lost its pin ends with the descriptor, and is not in the way of the next one. */
    steer_quick_check_close(g);
    return false;
}
