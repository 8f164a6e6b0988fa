/* SPDX-License-Identifier: Apache-2.0 */
#define LOG_SCOPE "pods"
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "lib/cleanup.h"
#include "lib/log.h"
#include "lib/seqpacket.h"
#include "proxy/connection/worker_dns.h"
#include "proxy/pod/pod.h"
#include "proxy/pods/pods.h"
#include "proxy/proxy.h"

enum { UDP, TCP, SOCKETS };

/* Of each socket one for each worker, or none at all. The caller frees it. */
static int *for_workers(const struct proxy *proxy, const int sockets[SOCKETS])
{
    size_t n = (size_t)proxy->workers_len * SOCKETS;
    int *copies = calloc(n ? n : 1, sizeof(*copies));

    for (size_t i = 0; copies && i < n; i++) {
        int fd = sockets[i % SOCKETS];

        copies[i] = fd < 0 ? -1 : fcntl(fd, F_DUPFD_CLOEXEC, 0);
        if (fd >= 0 && copies[i] < 0) {
            int e = errno;

            close_fds(copies, i);
            free(copies);
            errno = e;
            return NULL;
        }
    }
    return copies;
}

int pods_set_dns(struct proxy *proxy, const char *uid, int udp, int tcp)
{
    int sockets[SOCKETS] = {udp, tcp};
    _cleanup_free_ int *copies = NULL;
    struct pod *pod, *found = NULL;

    list_for_each (pod, &proxy->pods, node) {
        if (!strcmp(pod->uid, uid))
            found = pod;
    }
    errno = ENOENT;
    copies = found ? for_workers(proxy, sockets) : NULL;
    if (!copies) {
        int r = -errno;

        close_fds(sockets, SOCKETS);
        return r;
    }
    close_fds(found->dns_fds, SOCKETS);
    memcpy(found->dns_fds, sockets, sizeof(sockets));
    for (unsigned i = 0; i < proxy->workers_len; i++)
        worker_set_dns(proxy->workers[i], found, copies[i * SOCKETS + UDP], copies[i * SOCKETS + TCP]);
    log_info("DNS queries of a pod %s\tpod=\"%s/%s\"", udp >= 0 ? "are answered" : "are its own again",
             found->namespace, found->name);
    return 0;
}
