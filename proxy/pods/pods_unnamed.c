/* SPDX-License-Identifier: Apache-2.0 */
#define LOG_SCOPE "pods"
#include "lib/log.h"
#include "proxy/pods/name_set.h"
#include "proxy/pods/pods.h"

struct unnamed_search {
    const struct name_set *named;
    struct name_set gone;
};

static void collect(void *data, const struct pod_info *info, bool draining, const int fds[BRUMA_POD_FD_COUNT])
{
    struct unnamed_search *s = data;

    (void)draining;
    (void)fds;
    /* Without memory for it, it is found at the next snapshot. */
    if (!name_set_has(s->named, info->uid))
        (void)name_set_add(&s->gone, info->uid);
}

void pods_delete_unnamed(struct proxy *proxy, const struct name_set *named)
{
    struct unnamed_search s = {.named = named};

    pods_each(proxy, collect, &s);
    for (size_t i = 0; i < s.gone.len; i++) {
        log_info("the agent no longer names a pod; it is removed\tuid=\"%s\"", s.gone.names[i]);
        pods_delete(proxy, s.gone.names[i]);
    }
    name_set_clear(&s.gone);
}
