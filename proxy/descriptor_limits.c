/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/descriptor_limits.h"

#include <sys/resource.h>

/* One pod leaves something to the others, and one peer something to the pod's other peers. */
void descriptor_limits_derive(struct proxy_settings *s)
{
    struct rlimit limit = {.rlim_cur = 1024};
    unsigned long pipes;

    getrlimit(RLIMIT_NOFILE, &limit);
    if (!s->max_pod_descriptors)
        s->max_pod_descriptors = limit.rlim_cur - limit.rlim_cur / 4;
    if (!s->max_peer_connections)
        s->max_peer_connections = s->max_pod_descriptors - s->max_pod_descriptors / 4;
    pipes = limit.rlim_cur / 16 / 2 / s->workers;
    if (s->relay_pipes > pipes)
        s->relay_pipes = pipes;
}
