/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/steer/direct_view.h"

#include <bpf/bpf.h>
#include <errno.h>
#include <string.h>
#include <time.h>

#include "agent/steer/internal.h"
#include "bruma/node.h"
#include "lib/cleanup.h"

static uint64_t now(clockid_t clock)
{
    struct timespec t;

    clock_gettime(clock, &t);
    return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

int steer_direct_look(const struct steer *s, struct steer_direct_view *ret)
{
    struct bruma_flow_count total;
    uint32_t zero = 0;
    uint64_t socket;

    memset(ret, 0, sizeof(*ret));
    if (!steer_direct_able(s))
        return -EOPNOTSUPP;
    if (bpf_map_lookup_elem(s->direct_fds[BRUMA_DIRECT_FD_CONTROL], &zero, &ret->control) < 0 ||
        bpf_map_lookup_elem(s->direct_fds[DIRECT_MAP_FLOWS_FULL], &zero, &ret->flows_full_nanoseconds) < 0 ||
        bpf_map_lookup_elem(s->direct_fds[DIRECT_MAP_FLOW_LIMITS], &zero, &ret->limits) < 0 ||
        bpf_map_lookup_elem(s->direct_fds[DIRECT_MAP_FLOW_TOTALS], &zero, &total) < 0)
        return -errno;
    ret->connections = total.begun > total.ended ? total.begun - total.ended : 0;
    ret->lives =
        bpf_map_lookup_elem(s->direct_fds[BRUMA_DIRECT_FD_PROXIES], &ret->control.proxy, &socket) == 0;
    ret->now_nanoseconds = now(CLOCK_MONOTONIC);
    return 0;
}

static enum bruma_long_way said(uint32_t why, enum bruma_long_way otherwise)
{
    return why ? (enum bruma_long_way)why : otherwise;
}

/* NONE if there is room for one more of the pod. */
static enum bruma_long_way lacks_room(const struct steer *s, const struct steer_direct_view *view,
                                      uint64_t cookie)
{
    if (view->connections >= view->limits.all)
        return BRUMA_LONG_WAY_FLOWS_FULL;
    return steer_direct_live(s, cookie) >= view->limits.pod ? BRUMA_LONG_WAY_POD_FLOWS_FULL
                                                            : BRUMA_LONG_WAY_NONE;
}

enum bruma_long_way steer_direct_ask(const struct steer *s, const struct steer_direct_view *view,
                                     uint64_t cookie, uint32_t generation, uint32_t ways, uint32_t *ret_way)
{
    const struct bruma_direct_control *control = &view->control;
    struct bruma_direct_pod pod;

    if (!control->proxy)
        return said(control->why, BRUMA_LONG_WAY_NO_PROXY);
    if (!view->lives)
        return BRUMA_LONG_WAY_PROXY_GONE;
    if (view->now_nanoseconds >= control->valid_until_nanoseconds)
        return BRUMA_LONG_WAY_PROXY_SILENT;
    if (!(control->ways & ways))
        return said(control->why, BRUMA_LONG_WAY_SWITCHED_OFF);
    if (bpf_map_lookup_elem(s->direct_fds[BRUMA_DIRECT_FD_PODS], &cookie, &pod) < 0 ||
        pod.proxy != control->proxy || pod.generation != generation)
        return BRUMA_LONG_WAY_POD_UNKNOWN;
    *ret_way = pod.ways & control->ways & ways;
    if (*ret_way & (BRUMA_DIRECT_OUTSIDE | BRUMA_DIRECT_PASS))
        return lacks_room(s, view, cookie);
    if (*ret_way)
        return BRUMA_LONG_WAY_NONE;
    if (pod.ways & ways)
        return said(control->why, BRUMA_LONG_WAY_SWITCHED_OFF);
    return ways & BRUMA_DIRECT_OUTSIDE ? said(pod.outside_why, BRUMA_LONG_WAY_POD_UNKNOWN)
                                       : said(pod.inbound_why, BRUMA_LONG_WAY_POLICY_DEPENDS);
}

static bool is_in_mesh(const struct steer *s, const struct bruma_direct_control *control,
                       const struct addr *addr)
{
    struct bruma_mesh_key key = {.proxy = control->proxy};
    struct bruma_mesh_prefix prefix = {.prefix_length = 8 * (sizeof(prefix) - sizeof(prefix.prefix_length)),
                                       .proxy = control->proxy};
    struct bruma_mesh_objects objects;

    memcpy(&key.address, addr, sizeof(key.address));
    memcpy(&prefix.address, addr, sizeof(prefix.address));
    return bpf_map_lookup_elem(s->direct_fds[BRUMA_DIRECT_FD_ADDRESSES], &key, &objects) == 0 ||
           bpf_map_lookup_elem(s->direct_fds[BRUMA_DIRECT_FD_PREFIXES], &prefix, &objects) == 0;
}

enum bruma_long_way steer_direct_ask_outside(const struct steer *s, const struct steer_direct_view *view,
                                             uint64_t cookie, const struct bruma_pod *pod,
                                             const struct endpoint *to)
{
    uint32_t way;
    enum bruma_long_way why;

    /* As the hook asks: first what is so for most. */
    if (view->control.proxy && is_in_mesh(s, &view->control, &to->addr))
        return BRUMA_LONG_WAY_IN_MESH;
    why = steer_direct_ask(s, view, cookie, pod->generation, BRUMA_DIRECT_OUTSIDE, &way);
    if (why)
        return why;
    if (to->port == 53 && pod->flags & BRUMA_POD_CAPTURE_DNS)
        return BRUMA_LONG_WAY_DNS;
    return pod->flags >> BRUMA_POD_DEVICE_SHIFT ? BRUMA_LONG_WAY_NONE : BRUMA_LONG_WAY_SEVERAL_DEVICES;
}

/* Nothing has changed since that it depends on. */
static bool generation_counts(const int *maps, const struct bruma_node_key *key,
                              const struct bruma_node_verdict *verdict)
{
    const uint32_t places[] = {bruma_node_place(key->source_cookie),
                               bruma_node_place(verdict->destination_cookie),
                               bruma_node_place_of_address(&key->destination)};
    struct bruma_node_control control;
    uint32_t zero = 0;
    struct bruma_node_place place;
    uint64_t sum;

    if (bpf_map_lookup_elem(maps[BRUMA_NODE_FD_CONTROL], &zero, &control) < 0)
        return false;
    sum = control.generation;
    for (size_t i = 0; i < array_size(places); i++) {
        if (bpf_map_lookup_elem(maps[BRUMA_NODE_FD_PLACES], &places[i], &place) < 0)
            return false;
        sum += place.changes;
    }
    return sum == verdict->generation;
}

/* As the hook asks. */
static enum bruma_long_way node_lacks_room(const struct steer *s, const struct steer_direct_view *view,
                                           uint64_t cookie)
{
    const int *maps = &s->direct_fds[DIRECT_MAP_NODE];
    uint32_t at = bruma_node_place(cookie), zero = 0;
    enum bruma_long_way why = lacks_room(s, view, cookie);
    struct bruma_node_control control;
    struct bruma_node_place place;

    if (why)
        return why;
    if (bpf_map_lookup_elem(maps[BRUMA_NODE_FD_CONTROL], &zero, &control) < 0 ||
        control.tuples >= BRUMA_MAX_NODE_TUPLES - BRUMA_NODE_TUPLES_SLACK)
        return BRUMA_LONG_WAY_TUPLES_FULL;
    if (bpf_map_lookup_elem(maps[BRUMA_NODE_FD_PLACES], &at, &place) < 0 ||
        place.tuples >= BRUMA_MAX_NODE_TUPLES_OF_POD)
        return BRUMA_LONG_WAY_POD_TUPLES_FULL;
    return BRUMA_LONG_WAY_NONE;
}

/* Devices and the destination's entry are asked for, too, when it connects; a change there makes another
 * generation. */
bool steer_direct_ask_node(const struct steer *s, const struct steer_direct_view *view, uint64_t cookie,
                           const struct bruma_pod *pod, const struct endpoint *to,
                           enum bruma_long_way *ret_why)
{
    const int *maps = &s->direct_fds[DIRECT_MAP_NODE];
    struct bruma_node_key key = {.source_cookie = cookie, .port = to->port};
    struct bruma_node_verdict verdict;

    *ret_why = node_lacks_room(s, view, cookie);
    memcpy(&key.destination, &to->addr, sizeof(key.destination));
    return view->control.ways & BRUMA_DIRECT_NODE && view->control.proxy && view->lives &&
           view->now_nanoseconds < view->control.valid_until_nanoseconds &&
           bpf_map_lookup_elem(maps[BRUMA_NODE_FD_VERDICTS], &key, &verdict) == 0 &&
           generation_counts(maps, &key, &verdict) && now(CLOCK_BOOTTIME) < verdict.valid_until_nanoseconds &&
           verdict.proxy == view->control.proxy && verdict.source_generation == pod->generation;
}
