/* SPDX-License-Identifier: Apache-2.0 */
/* The instance of the sk_lookup program that a pod has for itself. */
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "agent/steer/internal.h"
#include "bpf/lookup.skel.h"
#include "lib/cleanup.h"

int steer_program_tag(int program_fd, uint8_t tag[8])
{
    struct bpf_prog_info info = {};
    __u32 len = sizeof(info);

    if (bpf_obj_get_info_by_fd(program_fd, &info, &len) < 0)
        return -errno;
    memcpy(tag, info.tag, 8);
    return 0;
}

static int share_maps(const struct steer *s, struct lookup_bpf *skeleton, int listeners_fd)
{
    int r = bpf_map__reuse_fd(skeleton->maps.pods, s->pods_fd);

    if (r == 0)
        r = bpf_map__reuse_fd(skeleton->maps.pod_counters, s->pod_counters_fd);
    if (r == 0)
        r = bpf_map__reuse_fd(skeleton->maps.failures, s->failures_fd);
    if (r == 0)
        r = bpf_map__reuse_fd(skeleton->maps.probe_tuples, s->probe_tuples_fd);
    if (r == 0)
        r = bpf_map__reuse_fd(skeleton->maps.deliveries, s->deliveries_fd);
    if (r == 0)
        r = bpf_map__reuse_fd(skeleton->maps.dns_sockets, s->dns_sockets_fd);
    if (r == 0)
        r = bpf_map__reuse_fd(skeleton->maps.excluded_ranges, s->excluded_ranges_fd);
    if (r == 0)
        r = bpf_map__reuse_fd(skeleton->maps.excluded_ports, s->excluded_ports_fd);
    if (r == 0)
        r = bpf_map__reuse_fd(skeleton->maps.exclusion_counters, s->exclusion_counters_fd);
    if (r == 0)
        r = steer_direct_share(s, skeleton->obj);
    if (r == 0 && listeners_fd >= 0)
        r = bpf_map__reuse_fd(skeleton->maps.listeners, listeners_fd);
    return r;
}

int steer_pod_program_load(struct steer *s, uint64_t cookie, int listeners_fd, int *ret_program,
                           int *ret_listeners, struct steer_error *error)
{
    struct lookup_bpf *skeleton = lookup_bpf__open();
    _cleanup_fd_ int program = -1, listeners = -1;
    struct bpf_map *map;
    int r;

    if (!skeleton)
        return steer_fail(error, BRUMA_REASON_ATTACH_FAILED, errno, "cannot open the pod program");
    /* Maps of all pods are shared by descriptor; the pod's own are pinned by the caller. */
    bpf_object__for_each_map(map, skeleton->obj) bpf_map__set_pin_path(map, NULL);
    skeleton->rodata->netns_cookie = cookie;
    r = share_maps(s, skeleton, listeners_fd);
    if (r == 0)
        r = lookup_bpf__load(skeleton);
    if (r == 0) {
        program = fcntl(bpf_program__fd(skeleton->progs.lookup), F_DUPFD_CLOEXEC, 3);
        listeners = fcntl(bpf_map__fd(skeleton->maps.listeners), F_DUPFD_CLOEXEC, 3);
        r = program < 0 || listeners < 0 ? -EMFILE : 0;
    }
    lookup_bpf__destroy(skeleton);
    if (r < 0)
        return steer_fail(error, BRUMA_REASON_ATTACH_FAILED, r, "cannot load the pod program");
    *ret_program = take_fd(&program);
    *ret_listeners = take_fd(&listeners);
    return 0;
}

int steer_pod_program_update(struct steer *s, uint64_t cookie, struct steer_error *error)
{
    _cleanup_fd_ int pinned = -1, program = -1, listeners = -1, same = -1, link = -1;
    char path[PATH_MAX / 4];
    uint8_t tag[8];
    int r;

    steer_pod_pin_path(s, cookie, "program", path, sizeof(path));
    pinned = bpf_obj_get(path);
    if (pinned < 0 || steer_program_tag(pinned, tag) < 0 || !memcmp(tag, s->lookup_tag, sizeof(tag)))
        return 0;
    steer_pod_pin_path(s, cookie, "listeners", path, sizeof(path));
    listeners = bpf_obj_get(path);
    steer_pod_pin_path(s, cookie, "link", path, sizeof(path));
    link = bpf_obj_get(path);
    if (listeners < 0 || link < 0)
        return 0; /* half an enrollment: verification finds and repairs it */
    r = steer_pod_program_load(s, cookie, listeners, &program, &same, error);
    if (r < 0)
        return r;
    /* One step: no packet sees the pod without a program. */
    if (bpf_link_update(link, program, NULL) < 0)
        return steer_fail(error, BRUMA_REASON_ATTACH_FAILED, errno, "cannot update the pod's link");
    steer_pod_pin_path(s, cookie, "program", path, sizeof(path));
    unlink(path);
    if (bpf_obj_pin(program, path) < 0)
        return steer_fail(error, BRUMA_REASON_ATTACH_FAILED, errno, "cannot pin %s", path);
    return 0;
}
