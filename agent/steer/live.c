/* SPDX-License-Identifier: Apache-2.0 */
/* Connections of applications are bound to the devices that they come by: those that live when the pod is
 * enrolled (bpf/live.bpf.c), and those that come later (bpf/accept.bpf.c). */
#define LOG_SCOPE "steer"
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include "agent/steer/internal.h"
#include "bpf/accept.skel.h"
#include "bpf/live.skel.h"
#include "lib/cleanup.h"
#include "lib/log.h"
#include "lib/netns.h"

void steer_live_load(struct steer *s)
{
    struct live_bpf *skeleton = live_bpf__open_and_load();

    s->live_fd = skeleton ? fcntl(bpf_program__fd(skeleton->progs.bind_live), F_DUPFD_CLOEXEC, 3) : -1;
    if (s->live_fd < 0)
        log_warn_errno(
            -errno, "this kernel does not allow binding open connections of pods to their devices; in a pod "
                    "that is enrolled while it runs, new connections may now and then get the port of an "
                    "older one, and hang");
    live_bpf__destroy(skeleton);
}

void steer_accepted_load(struct steer *s)
{
    struct accept_bpf *skeleton = accept_bpf__open();
    struct steer_error error = {};
    int r = skeleton ? steer_pin_paths(s, skeleton->obj, &error) : -errno;

    if (r == 0)
        r = accept_bpf__load(skeleton);
    if (r == 0) {
        s->accepted_fd = fcntl(bpf_program__fd(skeleton->progs.accepted), F_DUPFD_CLOEXEC, 3);
        s->released_fd = fcntl(bpf_program__fd(skeleton->progs.released), F_DUPFD_CLOEXEC, 3);
        r = s->accepted_fd < 0 || s->released_fd < 0 ? -errno : 0;
    }
    if (r < 0)
        log_warn_errno(
            r,
            "this kernel does not allow binding accepted connections of pods to their devices; if a "
            "client chooses its own ports, one of its connections may occasionally hang; and no connection "
            "goes directly, past the proxy");
    accept_bpf__destroy(skeleton);
}

static int run(int program)
{
    _cleanup_fd_ int link = bpf_link_create(program, 0, BPF_TRACE_ITER, NULL), fd = -1;
    int bound = 0;
    ssize_t n;

    fd = link < 0 ? -1 : bpf_iter_create(link);
    if (fd < 0)
        return -errno;
    do {
        char buf[512];

        n = read(fd, buf, sizeof(buf));
        bound += n > 0 ? (int)n : 0;
    } while (n > 0 || (n < 0 && (errno == EAGAIN || errno == EINTR)));
    return n < 0 ? -errno : bound;
}

int steer_pod_bind_live(struct steer *s, int netns_fd)
{
    if (s->live_fd < 0)
        return -EOPNOTSUPP;
    _cleanup_netns_ int home = netns_visit(netns_fd);

    return home < 0 ? home : run(s->live_fd);
}
