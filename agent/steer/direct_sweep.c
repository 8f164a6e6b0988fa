/* SPDX-License-Identifier: Apache-2.0 */
/* Entries of direct connections whose end nobody has noticed. */
#define LOG_SCOPE "steer"
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "agent/steer/direct.h"
#include "agent/steer/internal.h"
#include "bpf/sweep.skel.h"
#include "lib/cleanup.h"
#include "lib/log.h"
#include "lib/netns.h"

/* A younger one may be of a socket that the walk has passed before connect() made it one of TCP's. */
#define SETTLED 10000000000ull /* nanoseconds */

struct live_sockets {
    uint64_t *cookies;
    size_t len;
};

void steer_sweep_load(struct steer *s)
{
    struct sweep_bpf *skeleton = sweep_bpf__open();
    struct steer_error error = {};
    int r = skeleton ? steer_pin_paths(s, skeleton->obj, &error) : -errno;

    if (r == 0)
        r = sweep_bpf__load(skeleton);
    if (r == 0) {
        s->sweep_fd = fcntl(bpf_program__fd(skeleton->progs.live_flows), F_DUPFD_CLOEXEC, 3);
        s->forget_fd = fcntl(bpf_program__fd(skeleton->progs.forget_flow), F_DUPFD_CLOEXEC, 3);
        r = s->sweep_fd < 0 || s->forget_fd < 0 ? -errno : 0;
    }
    if (r < 0)
        log_warn_errno(r, "this kernel does not allow looking for direct connections whose end was missed");
    sweep_bpf__destroy(skeleton);
}

static int by_number(const void *a, const void *b)
{
    const uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

    return x < y ? -1 : x > y;
}

/* Of the namespace that the calling thread is in. */
static int read_sockets(int program, struct live_sockets *ret)
{
    _cleanup_fd_ int link = bpf_link_create(program, 0, BPF_TRACE_ITER, NULL), fd = -1;
    size_t room = 0, bytes = 0;
    char *all = NULL;
    ssize_t n;

    fd = link < 0 ? -1 : bpf_iter_create(link);
    if (fd < 0)
        return -errno;
    do {
        if (room - bytes < 4096) {
            char *grown = realloc(all, room = room ? 2 * room : 16384);

            if (!grown) {
                free(all);
                return -ENOMEM;
            }
            all = grown;
        }
        n = read(fd, all + bytes, room - bytes);
        bytes += n > 0 ? (size_t)n : 0;
    } while (n > 0 || (n < 0 && (errno == EAGAIN || errno == EINTR)));
    if (n < 0) {
        int r = -errno;

        free(all);
        return r;
    }
    *ret = (struct live_sockets){(uint64_t *)(void *)all, bytes / sizeof(uint64_t)};
    qsort(ret->cookies, ret->len, sizeof(uint64_t), by_number);
    return 0;
}

static uint64_t now(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000000 + (uint64_t)ts.tv_nsec;
}

struct left_over {
    uint64_t cookie, before;
    struct live_sockets live;
};

static bool is_left_over(uint64_t socket, const struct bruma_flow *flow, void *data)
{
    const struct left_over *l = data;

    return flow->netns_cookie == l->cookie && flow->opened_nanoseconds < l->before &&
           !bsearch(&socket, l->live.cookies, l->live.len, sizeof(socket), by_number);
}

int steer_direct_sweep(struct steer *s, int netns_fd, uint64_t cookie)
{
    struct left_over l = {.cookie = cookie, .before = now() - SETTLED};
    int r;

    if (s->sweep_fd < 0)
        return -EOPNOTSUPP;
    if (!steer_direct_live(s, cookie))
        return 0;
    {
        _cleanup_netns_ int home = netns_visit(netns_fd);

        r = home < 0 ? home : read_sockets(s->sweep_fd, &l.live);
    }
    if (r == 0)
        r = steer_direct_remove_flows(s, is_left_over, &l);
    free(l.live.cookies);
    return r;
}
