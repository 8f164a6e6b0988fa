/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/enroll/pins.h"

#include <bpf/bpf.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>

#include "lib/cleanup.h"

#define PATH_TEXT 1024

static int open_pin(const char *pin_dir, uint64_t cookie, const char *what)
{
    char path[PATH_TEXT];
    int fd;

    if (snprintf(path, sizeof(path), "%s/pods/%" PRIu64 "/%s", pin_dir, cookie, what) >= (int)sizeof(path))
        return -ENAMETOOLONG;
    fd = bpf_obj_get(path);
    return fd < 0 ? -errno : fd;
}

int pins_listeners(const char *pin_dir, uint64_t cookie, uint64_t ret[BRUMA_LISTENER_COUNT])
{
    _cleanup_fd_ int map = open_pin(pin_dir, cookie, "listeners");

    if (map < 0)
        return map;
    for (uint32_t i = 0; i < BRUMA_LISTENER_COUNT; i++) {
        uint64_t socket;

        ret[i] = bpf_map_lookup_elem(map, &i, &socket) == 0 ? socket : 0;
    }
    return 0;
}

bool pins_netns_dead(const char *pin_dir, uint64_t cookie)
{
    _cleanup_fd_ int link = open_pin(pin_dir, cookie, "link");
    struct bpf_link_info info = {0};
    __u32 len = sizeof(info);

    return link >= 0 && bpf_obj_get_info_by_fd(link, &info, &len) == 0 && info.type == BPF_LINK_TYPE_NETNS &&
           !info.netns.netns_ino;
}
