/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/netns/netns_find.h"

#include <stdio.h>

static size_t missing(const struct netns_wanted *wanted, size_t len)
{
    size_t n = 0;

    for (size_t i = 0; i < len; i++)
        n += wanted[i].fd < 0;
    return n;
}

int netns_find(const struct netns_find_config *config, uint64_t own, struct netns_wanted *wanted, size_t len)
{
    for (size_t i = 0; i < len; i++)
        wanted[i].fd = -1;
    if (config->cni_cache)
        netns_find_in_cache(config->cni_cache, own, wanted, len);
    if (missing(wanted, len) && config->cri_socket)
        netns_find_by_cri(config->cri_socket, own, wanted, len);
    if (missing(wanted, len))
        netns_find_in_proc(config->proc, own, wanted, len);
    for (size_t i = 0; i < len; i++) {
        if (wanted[i].fd < 0 && !*wanted[i].error)
            snprintf(wanted[i].error, sizeof(wanted[i].error),
                     "neither the CNI cache nor the container runtime nor a process names it");
    }
    return (int)(len - missing(wanted, len));
}
