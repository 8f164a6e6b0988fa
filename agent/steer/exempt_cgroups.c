/* SPDX-License-Identifier: Apache-2.0 */
/* The cgroups of proxies that open their own sockets (map proxy_cgroups). */
#include <bpf/bpf.h>
#include <errno.h>
#include <stdlib.h>

#include "agent/steer/internal.h"
#include "lib/cleanup.h"

int steer_proxy_cgroup_add(struct steer *s, uint64_t id, uint32_t pid)
{
    struct bruma_proxy_cgroup value = {.pid = pid};

    return bpf_map_update_elem(s->proxy_cgroups_fd, &id, &value, BPF_ANY) < 0 ? -errno : 0;
}

int steer_proxy_cgroup_remove(struct steer *s, uint64_t id)
{
    return bpf_map_delete_elem(s->proxy_cgroups_fd, &id) < 0 && errno != ENOENT ? -errno : 0;
}

int steer_proxy_cgroups(const struct steer *s, struct steer_proxy_cgroup **ret)
{
    _cleanup_free_ struct steer_proxy_cgroup *list =
        calloc(BRUMA_MAX_PROXY_CGROUPS, sizeof(struct steer_proxy_cgroup));
    uint64_t key, *previous = NULL;
    int len = 0;

    if (!list)
        return -ENOMEM;
    while (len < BRUMA_MAX_PROXY_CGROUPS && bpf_map_get_next_key(s->proxy_cgroups_fd, previous, &key) == 0) {
        struct bruma_proxy_cgroup value;

        previous = &key;
        if (bpf_map_lookup_elem(s->proxy_cgroups_fd, &key, &value) == 0)
            list[len++] = (struct steer_proxy_cgroup){.id = key, .pid = value.pid};
    }
    *ret = take_pointer(list);
    return len;
}
