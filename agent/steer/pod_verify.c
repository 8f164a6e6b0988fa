/* SPDX-License-Identifier: Apache-2.0 */
/* Whether a pod is captured as it should be. */
#include <bpf/bpf.h>
#include <string.h>
#include <sys/socket.h>

#include "agent/steer/internal.h"
#include "agent/steer/pod_device.h"
#include "lib/cleanup.h"
#include "lib/netns.h"

static void found(struct steer_findings *f, enum bruma_reason reason)
{
    if (f->len < (int)array_size(f->reasons))
        f->reasons[f->len++] = reason;
}

/* In its slot, and still listening: SOCK_DESTROY closes a listener while everybody holds its descriptor. */
static bool listener_lives(int map, __u32 slot, int fd)
{
    uint64_t registered, own;
    int listening = 0;
    socklen_t len = sizeof(listening);

    return map >= 0 && bpf_map_lookup_elem(map, &slot, &registered) == 0 && socket_cookie(fd, &own) == 0 &&
           registered == own && getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listening, &len) == 0 && listening;
}

/* Of a proxy that has its listeners for itself, only the slot can be looked at. */
static bool slot_holds(int map, __u32 slot, uint64_t cookie)
{
    uint64_t registered;

    return cookie && map >= 0 && bpf_map_lookup_elem(map, &slot, &registered) == 0 && registered == cookie;
}

bool pod_entry_fits(struct steer *s, const struct steer_pod *pod)
{
    struct bruma_pod entry;
    struct bruma_pod_counters counters;

    if (steer_pod_entry(s, pod->cookie, &entry) < 0 || steer_pod_counters(s, pod->cookie, &counters) < 0 ||
        (entry.flags & BRUMA_POD_DEVICE_MAX & ~(KEPT_FLAGS | FAMILY_FLAGS)) !=
            (pod_inbound_flags(pod) | BRUMA_POD_CAPTURE_OUTBOUND))
        return false;
    for (int i = 0; i < pod->addresses_len; i++) {
        if (memcmp(entry.addresses[i].bytes, pod->addresses[i].bytes, sizeof(entry.addresses[i].bytes)) != 0)
            return false;
    }
    return true;
}

/* Addresses and devices come and go; that is no fault of the entry. */
static void renew_flags(struct steer *s, const struct steer_pod *pod, uint32_t no_family)
{
    const uint32_t mask = FAMILY_FLAGS | BRUMA_POD_DEVICE_MAX << BRUMA_POD_DEVICE_SHIFT;
    uint32_t flags = no_family | pod_only_device(pod) << BRUMA_POD_DEVICE_SHIFT;
    uint64_t cookie = pod->cookie;
    struct bruma_pod entry;

    if (steer_pod_entry(s, cookie, &entry) < 0 || (entry.flags & mask) == flags)
        return;
    entry.flags = (entry.flags & ~mask) | flags;
    (void)bpf_map_update_elem(s->pods_fd, &cookie, &entry, BPF_EXIST);
}

int steer_pod_verify(struct steer *s, const struct steer_pod *pod, struct steer_findings *ret)
{
    _cleanup_fd_ int map = steer_pod_pin_open(s, pod->cookie, "listeners");
    struct steer_findings f = {};
    struct pod_netns_state state;
    bool closed = false;
    int r = pod_netns_verify(pod, &state), attached;

    if (r < 0)
        return r;
    if (map < 0 && !steer_pin_missing(map))
        return map;
    attached = pod_link_attached(s, pod->cookie, pod->netns_fd);
    if (attached < 0)
        return attached;
    renew_flags(s, pod, state.no_family);
    if (state.loopback_down)
        found(&f, BRUMA_REASON_LOOPBACK_DOWN);
    if (!attached)
        found(&f, BRUMA_REASON_LINK_DETACHED);
    if (!pod_entry_fits(s, pod))
        found(&f, BRUMA_REASON_MAP_ENTRY_MISSING);
    for (__u32 i = 0; i < BRUMA_LISTENER_COUNT; i++) {
        int listening = 0;
        socklen_t len = sizeof(listening);

        if (pod->foreign_listeners ? slot_holds(map, i, pod->listener_cookies[i])
                                   : listener_lives(map, i, pod->listeners[i])) {
            /* those of before an upgrade have no mark */
            if (!pod->foreign_listeners)
                (void)steer_direct_mark_listener(s, i, pod->listeners[i]);
            continue;
        }
        closed = true;
        if (pod->foreign_listeners)
            f.closed_listeners[i] = true;
        else
            f.closed_listeners[i] =
                getsockopt(pod->listeners[i], SOL_SOCKET, SO_ACCEPTCONN, &listening, &len) < 0 || !listening;
    }
    if (closed)
        found(&f, BRUMA_REASON_LISTENER_CLOSED);
    if (state.rule_missing)
        found(&f, BRUMA_REASON_RULE_MISSING);
    if (state.route_missing)
        found(&f, BRUMA_REASON_ROUTE_MISSING);
    if (state.sysctl_changed)
        found(&f, BRUMA_REASON_SYSCTL_CHANGED);
    *ret = f;
    return 0;
}
