/* SPDX-License-Identifier: Apache-2.0 */
#define LOG_SCOPE "pods"
#include <errno.h>
#include <fcntl.h>
#include <string.h>

#include "lib/cleanup.h"
#include "lib/log.h"
#include "lib/reasons.h"
#include "lib/seqpacket.h"
#include "proxy/connection/worker_socks.h"
#include "proxy/pod/pod.h"
#include "proxy/pods/pod_listeners.h"
#include "proxy/pods/pods.h"
#include "proxy/proxy.h"

/* Of each listener one for the worker; -1 of what there is none. */
static void give(struct worker *w, struct pod *pod)
{
    int copies[2];

    for (size_t i = 0; i < array_size(copies); i++)
        copies[i] = pod->socks_fds[i] < 0 ? -1 : fcntl(pod->socks_fds[i], F_DUPFD_CLOEXEC, 0);
    worker_set_socks(w, pod, copies);
}

static void open_for(struct proxy *proxy, struct pod *pod)
{
    const struct pod_listener_options options = {
        .mark = pod->packet_mark, .ipv6 = proxy->settings.ipv6, .reuse_port = true};
    int netns_fd = pod->own ? proxy->own_netns_fd : pod->fds[BRUMA_POD_FD_NETNS];
    char error[256];
    int r = pod_listeners_open_socks(&options, netns_fd, proxy->own_netns_fd, pod->socks_fds, error,
                                     sizeof(error));

    if (r < 0) {
        log_error("a pod has no SOCKS server\tpod=\"%s/%s\" reason=%s error=\"%s\"", pod->namespace,
                  pod->name, reason_name(BRUMA_REASON_LISTENER_OPEN_FAILED), error);
        return;
    }
    for (unsigned i = 0; i < proxy->workers_len; i++)
        give(proxy->workers[i], pod);
}

void pods_open_socks(struct proxy *proxy)
{
    struct pod *pod;

    list_for_each (pod, &proxy->pods, node) {
        if (proxy->settings.socks && pod->socks_fds[0] < 0 && !pod->draining &&
            (!pod->own || proxy->settings.dedicated))
            open_for(proxy, pod);
    }
}

void pods_close_socks(struct proxy *proxy)
{
    struct pod *pod;

    list_for_each (pod, &proxy->pods, node)
        close_fds(pod->socks_fds, array_size(pod->socks_fds));
}
