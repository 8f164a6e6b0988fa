/* SPDX-License-Identifier: Apache-2.0 */
/* Enrolling a pod and letting it go. */
#include <assert.h>
#include <bpf/bpf.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "agent/steer/exclusions.h"
#include "agent/steer/internal.h"
#include "agent/steer/node.h"
#include "agent/steer/pod_device.h"
#include "bruma/mesh.h"
#include "lib/cleanup.h"
#include "lib/netns.h"

#define MAPS_MAX 32 /* of the pod's program */

int steer_pod_link_path(const struct steer *s, uint64_t cookie, char *buf, size_t size)
{
    return steer_pod_pin_path(s, cookie, "link", buf, size);
}

bool steer_pin_missing(int r)
{
    return r == -ENOENT || r == -ENOTDIR;
}

static int pin(const struct steer *s, uint64_t cookie, const char *name, int fd, struct steer_error *error)
{
    char path[PATH_MAX / 4];

    steer_pod_pin_path(s, cookie, name, path, sizeof(path));
    unlink(path);
    if (bpf_obj_pin(fd, path) < 0)
        return steer_fail(error, BRUMA_REASON_ATTACH_FAILED, errno, "cannot pin %s", path);
    return 0;
}

static int unpin(const struct steer *s, uint64_t cookie, const char *name)
{
    char path[PATH_MAX / 4];

    steer_pod_pin_path(s, cookie, name, path, sizeof(path));
    return unlink(path) < 0 && errno != ENOENT ? -errno : 0;
}

/* sk_lookup would hand a connection to a listener of any namespace, and the client would wait for ever. */
static int check_listeners(const struct steer_pod *pod, struct steer_error *error)
{
    for (int i = 0; i < BRUMA_LISTENER_COUNT; i++) {
        uint64_t cookie;
        int r = socket_netns_cookie(pod->listeners[i], &cookie);

        if (r == 0 && cookie != pod->cookie)
            r = -EXDEV;
        if (r < 0)
            return steer_fail(error, BRUMA_REASON_LISTENER_OPEN_FAILED, r,
                              "listener %d is not one of the pod's", i);
    }
    return 0;
}

static int fill_listeners(const struct steer *s, int map, const struct steer_pod *pod,
                          struct steer_error *error)
{
    for (__u32 i = 0; i < BRUMA_LISTENER_COUNT; i++) {
        __u64 fd = (__u64)pod->listeners[i];
        int r = steer_direct_mark_listener(s, i, pod->listeners[i]);

        if (r < 0)
            return steer_fail(error, BRUMA_REASON_MAP_UPDATE_FAILED, r, "cannot mark listener %u", i);
        if (bpf_map_update_elem(map, &i, &fd, BPF_ANY) < 0)
            return steer_fail(error, BRUMA_REASON_MAP_UPDATE_FAILED, errno, "cannot register listener %u", i);
    }
    return 0;
}

static int write_entry(struct steer *s, const struct steer_pod *pod, uint32_t flags,
                       struct steer_error *error)
{
    struct bruma_pod entry = {.flags = flags, .generation = pod->generation};
    struct bruma_pod_counters counters = {};
    int r;

    entry.flags |= pod_no_family(pod->netns_fd);
    entry.flags |= pod_only_device(pod) << BRUMA_POD_DEVICE_SHIFT;
    static_assert(ADDR_TEXT_LEN <= BRUMA_IP_LEN, "an address may be longer than its text in the map");
    static_assert(BRUMA_REASON_COUNT <= BRUMA_MAX_FAILURES, "more reasons than the map has room for");
    for (int i = 0; i < pod->addresses_len && i < BRUMA_POD_ADDRESSES; i++) {
        memcpy(entry.addresses[i].bytes, pod->addresses[i].bytes, sizeof(entry.addresses[i].bytes));
        addr_format(&pod->addresses[i], entry.ips[i]);
    }
    memcpy(entry.pod, pod->name, sizeof(entry.pod));
    memcpy(entry.identity, pod->identity, sizeof(entry.identity));
    if (bpf_map_update_elem(s->pods_fd, &pod->cookie, &entry, BPF_ANY) < 0)
        return steer_fail(error, BRUMA_REASON_MAP_UPDATE_FAILED, errno, "cannot write the pods map");
    if (bpf_map_update_elem(s->pod_counters_fd, &pod->cookie, &counters, BPF_NOEXIST) < 0 && errno != EEXIST)
        return steer_fail(error, BRUMA_REASON_MAP_UPDATE_FAILED, errno, "cannot write the counters map");
    r = steer_direct_add(s, pod->cookie);
    if (r < 0)
        return steer_fail(error, BRUMA_REASON_MAP_UPDATE_FAILED, r, "cannot write the map direct_counters");
    return 0;
}

/* The program and SOCKMAP of an earlier enrollment are used again: connections in its listeners' queues stay.
 */
static int program_of(struct steer *s, const struct steer_pod *pod, int *ret_program, int *ret_listeners,
                      struct steer_error *error)
{
    _cleanup_fd_ int program = steer_pod_pin_open(s, pod->cookie, "program"),
                     listeners = steer_pod_pin_open(s, pod->cookie, "listeners");
    char path[PATH_MAX / 4];
    int r;

    if ((program < 0 && !steer_pin_missing(program)) || (listeners < 0 && !steer_pin_missing(listeners)))
        return steer_fail(error, BRUMA_REASON_ATTACH_FAILED, program < 0 ? program : listeners,
                          "what is pinned for the pod cannot be opened");
    if (program < 0 || listeners < 0) {
        r = steer_pod_pin_path(s, pod->cookie, NULL, path, sizeof(path));
        if (r < 0 || (mkdir(path, 0700) < 0 && errno != EEXIST))
            return steer_fail(error, BRUMA_REASON_ATTACH_FAILED, r ? r : errno, "cannot make %s", path);
        r = steer_pod_program_load(s, pod->cookie, listeners, &program, &listeners, error);
        if (r == 0)
            r = pin(s, pod->cookie, "program", program, error);
        if (r == 0)
            r = pin(s, pod->cookie, "listeners", listeners, error);
        if (r < 0)
            return r;
    }
    *ret_program = take_fd(&program);
    *ret_listeners = take_fd(&listeners);
    return 0;
}

static void remove_pins(struct steer *s, uint64_t cookie)
{
    char path[PATH_MAX / 4];

    steer_node_stop(s, cookie);
    unpin(s, cookie, "link");
    unpin(s, cookie, "program");
    unpin(s, cookie, "listeners");
    steer_pod_pin_path(s, cookie, NULL, path, sizeof(path));
    rmdir(path);
}

static void remove_entries(struct steer *s, uint64_t cookie)
{
    /* In this order: counters without an entry are the sign of an entry that somebody else has removed. */
    bpf_map_delete_elem(s->pod_counters_fd, &cookie);
    bpf_map_delete_elem(s->pods_fd, &cookie);
    bpf_map_delete_elem(s->dns_sockets_fd, &cookie);
    steer_exclusions_remove(s, cookie);
    steer_direct_remove(s, cookie);
}

uint32_t pod_inbound_flags(const struct steer_pod *pod)
{
    return BRUMA_POD_CAPTURE_INBOUND | (pod->bypass_inbound ? BRUMA_POD_BYPASS_INBOUND : 0);
}

int steer_pod_prepare(struct steer *s, const struct steer_pod *pod, int *ret_program_fd,
                      struct steer_error *error)
{
    _cleanup_fd_ int program = -1, listeners = -1;
    struct bruma_pod entry = {};
    bool known = steer_pod_entry(s, pod->cookie, &entry) == 0;
    struct steer_error ignored;
    uint32_t former = 0;
    int r = pod->foreign_listeners ? 0 : check_listeners(pod, error);

    if (r == 0 && !known)
        r = pod_netns_check_mark(pod, error);
    if (r < 0)
        return r;
    r = pod_netns_setup(pod, &former, error);
    /* What was on before the first enrollment counts, not what that one has set. */
    if (known)
        former = entry.flags & KEPT_FLAGS;
    if (r == 0)
        r = program_of(s, pod, &program, &listeners, error);
    if (r == 0 && !pod->foreign_listeners)
        r = fill_listeners(s, listeners, pod, error);
    if (r == 0)
        r = write_entry(s, pod, former | pod_inbound_flags(pod) | (entry.flags & BRUMA_POD_CAPTURE_OUTBOUND),
                        error);
    if (r < 0) {
        if (!known) {
            remove_entries(s, pod->cookie);
            remove_pins(s, pod->cookie);
            pod_netns_clean(pod->netns_fd, former, &ignored);
        }
        return r;
    }
    *ret_program_fd = take_fd(&program);
    return 0;
}

static bool link_fits(int link, int netns_fd)
{
    struct bpf_link_info info = {};
    __u32 len = sizeof(info);
    uint64_t inode;

    return bpf_obj_get_info_by_fd(link, &info, &len) == 0 && netns_inode(netns_fd, &inode) == 0 &&
           info.netns.netns_ino == (uint32_t)inode;
}

static bool program_uses(const struct bpf_prog_info *program, uint32_t map)
{
    for (uint32_t i = 0; i < program->nr_map_ids; i++) {
        if (((const uint32_t *)(uintptr_t)program->map_ids)[i] == map)
            return true;
    }
    return false;
}

/* Pins can be removed and made anew while the link runs on with what was there before. */
static bool pins_belong_together(int link, int program, int listeners)
{
    uint32_t ids[MAPS_MAX] = {};
    struct bpf_link_info l = {};
    struct bpf_prog_info p = {.nr_map_ids = MAPS_MAX, .map_ids = (uintptr_t)ids};
    struct bpf_map_info m = {};
    __u32 l_len = sizeof(l), p_len = sizeof(p), m_len = sizeof(m);

    return bpf_obj_get_info_by_fd(link, &l, &l_len) == 0 &&
           bpf_obj_get_info_by_fd(program, &p, &p_len) == 0 &&
           bpf_obj_get_info_by_fd(listeners, &m, &m_len) == 0 && l.prog_id == p.id &&
           p.nr_map_ids <= MAPS_MAX && program_uses(&p, m.id);
}

int pod_link_attached(struct steer *s, uint64_t cookie, int netns_fd)
{
    _cleanup_fd_ int link = steer_pod_pin_open(s, cookie, "link"),
                     program = steer_pod_pin_open(s, cookie, "program"),
                     listeners = steer_pod_pin_open(s, cookie, "listeners");
    const int all[] = {link, program, listeners};

    for (size_t i = 0; i < array_size(all); i++) {
        if (all[i] < 0 && !steer_pin_missing(all[i]))
            return all[i];
    }
    return link >= 0 && program >= 0 && listeners >= 0 && link_fits(link, netns_fd) &&
           pins_belong_together(link, program, listeners);
}

bool steer_pod_attached(struct steer *s, uint64_t cookie, int netns_fd)
{
    return pod_link_attached(s, cookie, netns_fd) > 0;
}

int steer_pod_attach(struct steer *s, const struct steer_pod *pod, struct steer_error *error)
{
    _cleanup_fd_ int program = -1, link = -1;
    int r = pod_link_attached(s, pod->cookie, pod->netns_fd);

    if (r > 0)
        return 0;
    program = steer_pod_pin_open(s, pod->cookie, "program");
    if (program < 0)
        return steer_fail(error, BRUMA_REASON_ATTACH_FAILED, program, "the pod's program is not pinned");
    link = steer_pod_pin_open(s, pod->cookie, "link");
    /* A second link must not be made because the first cannot be seen. */
    if (r == 0 && link < 0 && !steer_pin_missing(link))
        r = link;
    if (r < 0)
        return steer_fail(error, BRUMA_REASON_ATTACH_FAILED, r, "the pod's link cannot be inspected");
    /* Attached, but with a program whose pin is gone: replaced in one step. */
    if (link >= 0 && link_fits(link, pod->netns_fd) && bpf_link_update(link, program, NULL) == 0)
        return 0;
    if (link >= 0)
        close(take_fd(&link));
    link = bpf_link_create(program, pod->netns_fd, BPF_SK_LOOKUP, NULL);
    if (link < 0)
        return steer_fail(error, BRUMA_REASON_ATTACH_FAILED, errno,
                          "cannot attach to the pod's network namespace");
    return pin(s, pod->cookie, "link", link, error);
}

int steer_pod_set_listeners(struct steer *s, const struct steer_pod *pod, struct steer_error *error)
{
    _cleanup_fd_ int map = steer_pod_pin_open(s, pod->cookie, "listeners");
    int r = check_listeners(pod, error);

    if (r < 0)
        return r;
    if (map < 0)
        return steer_fail(error, BRUMA_REASON_MAP_UPDATE_FAILED, map, "the pod's listeners are not pinned");
    return fill_listeners(s, map, pod, error);
}

int steer_pod_commit(struct steer *s, const struct steer_pod *pod, struct steer_error *error)
{
    struct bruma_pod entry;
    uint32_t former = steer_pod_entry(s, pod->cookie, &entry) == 0 ? entry.flags & KEPT_FLAGS : 0;

    return write_entry(s, pod, former | pod_inbound_flags(pod) | BRUMA_POD_CAPTURE_OUTBOUND, error);
}

int steer_pod_stop_outbound(struct steer *s, uint64_t cookie, struct steer_error *error)
{
    struct bruma_pod entry;

    steer_node_forbid(s, cookie);
    if (steer_pod_entry(s, cookie, &entry) < 0)
        return 0;
    entry.flags &= ~(__u32)BRUMA_POD_CAPTURE_OUTBOUND;
    if (bpf_map_update_elem(s->pods_fd, &cookie, &entry, BPF_EXIST) < 0 && errno != ENOENT)
        return steer_fail(error, BRUMA_REASON_MAP_UPDATE_FAILED, errno, "cannot write the pods map");
    return 0;
}

int steer_pod_detach(struct steer *s, uint64_t cookie, struct steer_error *error)
{
    _cleanup_fd_ int link = steer_pod_pin_open(s, cookie, "link");

    /* Somebody may hold the link's descriptor, so it is detached before its pin goes. */
    if (link >= 0 && bpf_link_detach(link) < 0 && errno != ENOLINK && errno != EOPNOTSUPP)
        return steer_fail(error, BRUMA_REASON_ATTACH_FAILED, errno, "cannot detach the pod's link");
    remove_pins(s, cookie);
    return 0;
}

int steer_pod_clean(struct steer *s, uint64_t cookie, int netns_fd, struct steer_error *error)
{
    struct bruma_pod entry;
    uint32_t former = steer_pod_entry(s, cookie, &entry) == 0 ? entry.flags & KEPT_FLAGS : 0;
    int r = 0;

    remove_pins(s, cookie);
    if (netns_fd >= 0)
        r = pod_netns_clean(netns_fd, former, error);
    if (r == 0)
        remove_entries(s, cookie);
    return r;
}

/* Each step that can be taken is, whatever becomes of the others; and nothing is undone, as a pod of which a
 * part is broken is not to be let out. */
int steer_pod_repair(struct steer *s, const struct steer_pod *pod, const struct steer_findings *findings,
                     struct steer_error *error)
{
    _cleanup_fd_ int program = -1, listeners = -1;
    struct bruma_pod entry;
    bool known = steer_pod_entry(s, pod->cookie, &entry) == 0;
    struct steer_error later;
    uint32_t former = 0;
    int netns, r;

    if (!findings->len)
        return 0;
    netns = pod_netns_setup(pod, &former, error);
    /* what was on before the first enrollment counts, not what that one has set */
    if (known)
        former = entry.flags & KEPT_FLAGS;
    if (netns < 0)
        error = &later;
    r = pod->foreign_listeners ? 0 : check_listeners(pod, error);
    if (r == 0)
        r = program_of(s, pod, &program, &listeners, error);
    if (r == 0 && !pod->foreign_listeners)
        r = fill_listeners(s, listeners, pod, error);
    if (r == 0)
        r = write_entry(s, pod, former | pod_inbound_flags(pod) | BRUMA_POD_CAPTURE_OUTBOUND, error);
    if (r == 0)
        r = steer_pod_attach(s, pod, error);
    return netns < 0 ? netns : r;
}
