/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/steer/direct.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include "agent/steer/internal.h"
#include "lib/cleanup.h"

static const char *const names[DIRECT_MAPS] = {
    [BRUMA_DIRECT_FD_CONTROL] = "direct_control",
    [BRUMA_DIRECT_FD_PROXIES] = "direct_proxies",
    [BRUMA_DIRECT_FD_PODS] = "direct_pods",
    [BRUMA_DIRECT_FD_ADDRESSES] = "mesh_addresses",
    [BRUMA_DIRECT_FD_PREFIXES] = "mesh_prefixes",
    [BRUMA_DIRECT_FD_FLOWS] = "flows",
    [BRUMA_DIRECT_FD_EVENTS] = "flow_events",
    [DIRECT_MAP_COUNTERS] = "direct_counters",
    [DIRECT_MAP_FLOWS_FULL] = "flows_full",
    [DIRECT_MAP_FLOW_COUNTS] = "flow_counts",
    [DIRECT_MAP_FLOW_TOTALS] = "flow_totals",
    [DIRECT_MAP_FLOW_LIMITS] = "flow_limits",
    [DIRECT_MAP_FLOW_REFUSALS] = "flow_refusals",
    [DIRECT_MAP_LISTENERS] = "listener_sockets",
    [DIRECT_MAP_NODE + BRUMA_NODE_FD_CONTROL] = "node_control",
    [DIRECT_MAP_NODE + BRUMA_NODE_FD_DEVICES] = "node_devices",
    [DIRECT_MAP_NODE + BRUMA_NODE_FD_VERDICTS] = "node_verdicts",
    [DIRECT_MAP_NODE + BRUMA_NODE_FD_PENDING] = "node_pending",
    [DIRECT_MAP_NODE + BRUMA_NODE_FD_TUPLES] = "node_tuples",
    [DIRECT_MAP_NODE + BRUMA_NODE_FD_PLACES] = "node_places",
    [DIRECT_MAP_NODE_ARRIVING] = "node_arriving",
    [DIRECT_MAP_NODE_COUNTERS] = "node_counters",
    [DIRECT_MAP_NODE_SOCKETS] = "node_sockets",
};

int steer_direct_take(struct steer *s, const struct bpf_object *object)
{
    for (size_t i = 0; i < DIRECT_MAPS; i++) {
        int fd = bpf_object__find_map_fd_by_name(object, names[i]);

        if (fd < 0)
            return -ENOENT;
        s->direct_fds[i] = fcntl(fd, F_DUPFD_CLOEXEC, 3);
        if (s->direct_fds[i] < 0)
            return -errno;
    }
    return 0;
}

int steer_direct_share(const struct steer *s, struct bpf_object *object)
{
    int r = 0;

    for (size_t i = 0; r == 0 && i < DIRECT_MAPS; i++) {
        struct bpf_map *map = bpf_object__find_map_by_name(object, names[i]);

        r = map ? bpf_map__reuse_fd(map, s->direct_fds[i]) : 0;
    }
    return r;
}

void steer_direct_release(struct steer *s)
{
    for (size_t i = 0; i < DIRECT_MAPS; i++) {
        if (s->direct_fds[i] >= 0)
            close(s->direct_fds[i]);
        s->direct_fds[i] = -1;
    }
}

void steer_direct_fds(const struct steer *s, int ret[BRUMA_DIRECT_FD_COUNT])
{
    for (int i = 0; i < BRUMA_DIRECT_FD_COUNT; i++)
        ret[i] = s->direct_fds[i];
}

bool steer_direct_able(const struct steer *s)
{
    return s->accepted_fd >= 0 && s->released_fd >= 0 && !s->accepted_refused && !s->released_refused;
}

/* ---- of one pod ---- */

int steer_direct_mark_listener(const struct steer *s, uint32_t slot, int fd)
{
    const struct bruma_listener_socket value = {.slot = slot};

    return bpf_map_update_elem(s->direct_fds[DIRECT_MAP_LISTENERS], &fd, &value, BPF_ANY) < 0 ? -errno : 0;
}

int steer_direct_counters(struct steer *s, uint64_t cookie, struct bruma_direct_counters *ret)
{
    return bpf_map_lookup_elem(s->direct_fds[DIRECT_MAP_COUNTERS], &cookie, ret) < 0 ? -errno : 0;
}

int steer_direct_add(struct steer *s, uint64_t cookie)
{
    static const struct bruma_direct_counters zero;
    static const struct bruma_flow_count none;

    if (bpf_map_update_elem(s->direct_fds[DIRECT_MAP_COUNTERS], &cookie, &zero, BPF_NOEXIST) < 0 &&
        errno != EEXIST)
        return -errno;
    return bpf_map_update_elem(s->direct_fds[DIRECT_MAP_FLOW_COUNTS], &cookie, &none, BPF_NOEXIST) < 0 &&
                   errno != EEXIST
               ? -errno
               : 0;
}

#define BATCH 1024 /* entries */

struct flow_batch {
    uint64_t sockets[BATCH];
    struct bruma_flow flows[BATCH];
};

static int each_flow(const struct steer *s,
                     void (*fn)(void *data, uint64_t socket, const struct bruma_flow *flow), void *data)
{
    int map = s->direct_fds[BRUMA_DIRECT_FD_FLOWS];
    _cleanup_free_ struct flow_batch *batch = malloc(sizeof(*batch));
    uint32_t position = 0, count;
    bool first = true;
    int r = batch ? 0 : -ENOMEM;

    while (r == 0) {
        count = BATCH;
        if (bpf_map_lookup_batch(map, first ? NULL : &position, &position, batch->sockets, batch->flows,
                                 &count, NULL) < 0)
            r = -errno;
        if (r < 0 && r != -ENOENT)
            return r;
        first = false;
        for (uint32_t i = 0; i < count; i++)
            fn(data, batch->sockets[i], &batch->flows[i]);
    }
    return r == -ENOENT ? 0 : r;
}

struct search {
    flow_match_fn match;
    void *data;
    uint64_t *found;
    size_t len, room;
    bool failed;
};

static void search(void *data, uint64_t socket, const struct bruma_flow *flow)
{
    struct search *s = data;

    if (!s->match(socket, flow, s->data))
        return;
    if (s->len == s->room) {
        uint64_t *grown = reallocarray(s->found, s->room ? 2 * s->room : 64, sizeof(*s->found));

        s->failed |= !grown;
        if (!grown)
            return;
        s->found = grown;
        s->room = s->room ? 2 * s->room : 64;
    }
    s->found[s->len++] = socket;
}

/* By a program, which counts it. */
static void forget(const struct steer *s, uint64_t socket)
{
    LIBBPF_OPTS(bpf_test_run_opts, run, .ctx_in = &socket, .ctx_size_in = sizeof(socket));

    if (s->forget_fd < 0 || bpf_prog_test_run_opts(s->forget_fd, &run) < 0)
        bpf_map_delete_elem(s->direct_fds[BRUMA_DIRECT_FD_FLOWS], &socket);
}

/* What is looked for stays in the map until the walk is over: it does not survive what it deletes. */
int steer_direct_remove_flows(const struct steer *s, flow_match_fn match, void *data)
{
    struct search all = {.match = match, .data = data};
    int r = each_flow(s, search, &all);

    for (size_t i = 0; i < all.len; i++)
        forget(s, all.found[i]);
    free(all.found);
    return r < 0 ? r : all.failed ? -ENOMEM : (int)all.len;
}

/* ---- how many there are ---- */

static uint64_t live(const struct bruma_flow_count *count)
{
    return count->begun > count->ended ? count->begun - count->ended : 0;
}

uint64_t steer_direct_live(const struct steer *s, uint64_t cookie)
{
    struct bruma_flow_count count;

    return bpf_map_lookup_elem(s->direct_fds[DIRECT_MAP_FLOW_COUNTS], &cookie, &count) < 0 ? 0 : live(&count);
}

static void count_one(void *data, uint64_t socket, const struct bruma_flow *flow)
{
    const struct steer *s = data;
    struct bruma_flow_count all = {}, pod = {};
    uint32_t zero = 0;

    (void)socket;
    (void)bpf_map_lookup_elem(s->direct_fds[DIRECT_MAP_FLOW_TOTALS], &zero, &all);
    (void)bpf_map_lookup_elem(s->direct_fds[DIRECT_MAP_FLOW_COUNTS], &flow->netns_cookie, &pod);
    all.begun++;
    pod.begun++;
    (void)bpf_map_update_elem(s->direct_fds[DIRECT_MAP_FLOW_TOTALS], &zero, &all, BPF_ANY);
    (void)bpf_map_update_elem(s->direct_fds[DIRECT_MAP_FLOW_COUNTS], &flow->netns_cookie, &pod, BPF_ANY);
}

int steer_direct_count(struct steer *s, unsigned long most)
{
    const struct bruma_flow_limits limits = {.all = most, .pod = most / BRUMA_FLOWS_POD_SHARE};
    struct bruma_flow_count all;
    uint32_t zero = 0;

    if (bpf_map_update_elem(s->direct_fds[DIRECT_MAP_FLOW_LIMITS], &zero, &limits, BPF_ANY) < 0 ||
        bpf_map_lookup_elem(s->direct_fds[DIRECT_MAP_FLOW_TOTALS], &zero, &all) < 0)
        return -errno;
    /* An earlier version, whose programs are the ones at work still, has counted none. */
    return all.begun || all.ended ? 0 : each_flow(s, count_one, s);
}

static bool is_of(uint64_t socket, const struct bruma_flow *flow, void *data)
{
    const uint64_t *cookie = data;

    (void)socket;
    return flow->netns_cookie == *cookie;
}

void steer_direct_remove(struct steer *s, uint64_t cookie)
{
    bpf_map_delete_elem(s->direct_fds[BRUMA_DIRECT_FD_PODS], &cookie);
    bpf_map_delete_elem(s->direct_fds[DIRECT_MAP_COUNTERS], &cookie);
    if (steer_direct_live(s, cookie))
        (void)steer_direct_remove_flows(s, is_of, &cookie);
    bpf_map_delete_elem(s->direct_fds[DIRECT_MAP_FLOW_COUNTS], &cookie);
    bpf_map_delete_elem(s->direct_fds[DIRECT_MAP_FLOW_REFUSALS], &cookie);
}
