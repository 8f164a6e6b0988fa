/* SPDX-License-Identifier: Apache-2.0 */
/* What all the others stand on: how errors are told, what is pinned where, and what the pinned maps say. */
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "agent/steer/internal.h"
#include "lib/cleanup.h"
#include "lib/reasons.h"

int steer_fail(struct steer_error *error, enum bruma_reason reason, int e, const char *format, ...)
{
    char what[192], text[64];
    va_list ap;

    va_start(ap, format);
    vsnprintf(what, sizeof(what), format, ap);
    va_end(ap);
    e = e < 0 ? -e : e;
    error->reason = reason_of_failure(reason, e);
    snprintf(error->text, sizeof(error->text), "%.180s: %s", what, strerror_r(e, text, sizeof(text)));
    return -e;
}

int steer_pod_pin_path(const struct steer *s, uint64_t cookie, const char *name, char *buf, size_t size)
{
    int n = snprintf(buf, size, "%s/pods/%llu%s%s", s->pin_dir, (unsigned long long)cookie, name ? "/" : "",
                     name ? name : "");

    return n < 0 || (size_t)n >= size ? -ENAMETOOLONG : 0;
}

int steer_pod_pin_open(const struct steer *s, uint64_t cookie, const char *name)
{
    char path[PATH_MAX / 4];
    int fd;

    if (steer_pod_pin_path(s, cookie, name, path, sizeof(path)) < 0)
        return -ENAMETOOLONG;
    fd = bpf_obj_get(path);
    return fd < 0 ? -errno : fd;
}

/* Another version may have pinned the map with another layout. Its programs read it, so it can be neither
 * taken nor replaced. */
static int check_layout(const struct bpf_map *map, const char *path, struct steer_error *error)
{
    struct bpf_map_info info = {};
    __u32 len = sizeof(info);
    _cleanup_fd_ int fd = bpf_obj_get(path);

    if (fd < 0)
        return errno == ENOENT ? 0 : steer_fail(error, BRUMA_REASON_INTERNAL, errno, "cannot open %s", path);
    if (bpf_obj_get_info_by_fd(fd, &info, &len) < 0)
        return steer_fail(error, BRUMA_REASON_INTERNAL, errno, "%s is not a map", path);
    if (info.type == (__u32)bpf_map__type(map) && info.key_size == bpf_map__key_size(map) &&
        info.value_size == bpf_map__value_size(map) && info.max_entries == bpf_map__max_entries(map) &&
        info.map_flags == bpf_map__map_flags(map))
        return 0;
    return steer_fail(error, BRUMA_REASON_PINS_OTHER_VERSION, EINVAL, "%s has another layout", path);
}

int steer_pin_paths(const struct steer *s, struct bpf_object *object, struct steer_error *error)
{
    struct bpf_map *map;
    char path[PATH_MAX / 4];

    bpf_object__for_each_map(map, object)
    {
        int r;

        if (!bpf_map__pin_path(map))
            continue; /* rodata, the pod's SOCKMAP */
        snprintf(path, sizeof(path), "%s/maps/%s", s->pin_dir, bpf_map__name(map));
        r = bpf_map__set_pin_path(map, path);
        if (r < 0)
            return steer_fail(error, BRUMA_REASON_INTERNAL, r, "map %s", bpf_map__name(map));
        r = check_layout(map, path, error);
        if (r < 0)
            return r;
    }
    return 0;
}

int steer_pod_pinned_listeners(const struct steer *s, uint64_t cookie, uint64_t ret[BRUMA_LISTENER_COUNT])
{
    _cleanup_fd_ int map = steer_pod_pin_open(s, cookie, "listeners");

    if (map < 0)
        return map;
    for (uint32_t i = 0; i < BRUMA_LISTENER_COUNT; i++) {
        uint64_t socket;

        ret[i] = bpf_map_lookup_elem(map, &i, &socket) == 0 ? socket : 0;
    }
    return 0;
}

bool steer_pod_netns_dead(const struct steer *s, uint64_t cookie)
{
    _cleanup_fd_ int link = steer_pod_pin_open(s, cookie, "link");
    struct bpf_link_info info = {0};
    __u32 len = sizeof(info);

    return link >= 0 && bpf_obj_get_info_by_fd(link, &info, &len) == 0 && info.type == BPF_LINK_TYPE_NETNS &&
           !info.netns.netns_ino;
}

int steer_pod_entry(struct steer *s, uint64_t cookie, struct bruma_pod *ret)
{
    return bpf_map_lookup_elem(s->pods_fd, &cookie, ret) < 0 ? -errno : 0;
}

int steer_pod_counters(struct steer *s, uint64_t cookie, struct bruma_pod_counters *ret)
{
    return bpf_map_lookup_elem(s->pod_counters_fd, &cookie, ret) < 0 ? -errno : 0;
}
