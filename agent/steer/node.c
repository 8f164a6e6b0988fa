/* SPDX-License-Identifier: Apache-2.0 */
/* The programs of connections between pods of this node that stay in the kernel. */
#define LOG_SCOPE "steer"
#include "agent/steer/node.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "agent/steer/internal.h"
#include "bpf/node.skel.h"
#include "bruma/node.h"
#include "lib/cleanup.h"
#include "lib/log.h"

/* Attach types of the kernel that the headers of older ones lack: BPF_TCX_INGRESS, BPF_TCX_EGRESS. */
#define TCX_INGRESS ((enum bpf_attach_type)46)
#define TCX_EGRESS  ((enum bpf_attach_type)47)

#define PROGRAMS_MAX 64

static const struct {
    const char *pin;
    enum bpf_attach_type type;
} ends[STEER_NODE_ENDS] = {{"node-from", TCX_INGRESS}, {"node-to", TCX_EGRESS}};

static const char *const whats[] = {
#define STEER_NODE_WHAT(id, what, advice) what,
    STEER_NODE_REFUSALS(STEER_NODE_WHAT)
#undef STEER_NODE_WHAT
};

static const char *const advices[] = {
#define STEER_NODE_ADVICE(id, what, advice) advice,
    STEER_NODE_REFUSALS(STEER_NODE_ADVICE)
#undef STEER_NODE_ADVICE
};

const char *steer_node_what(enum steer_node_refusal refusal)
{
    return refusal < STEER_NODE_REFUSAL_COUNT ? whats[refusal] : "unknown";
}

const char *steer_node_advice(enum steer_node_refusal refusal)
{
    return refusal < STEER_NODE_REFUSAL_COUNT ? advices[refusal] : "";
}

static int duplicate(int fd)
{
    return fcntl(fd, F_DUPFD_CLOEXEC, 3);
}

/* ---- the programs ---- */

/* of_pod: those at the pod's device, of an instance for that namespace; else those of the cgroup. */
static int load(struct steer *s, bool of_pod, uint64_t cookie, int *fds, int fds_len,
                struct steer_error *error)
{
    struct node_bpf *skeleton = node_bpf__open();
    struct bpf_program *programs[3];
    int r;

    if (!skeleton)
        return steer_fail(error, BRUMA_REASON_ATTACH_FAILED, errno, "cannot open the programs of the node");
    programs[0] = of_pod ? skeleton->progs.from_pod : skeleton->progs.node_sockets_changed;
    programs[1] = of_pod ? skeleton->progs.to_pod : skeleton->progs.node_peer4;
    programs[2] = skeleton->progs.node_peer6;
    bpf_program__set_autoload(skeleton->progs.from_pod, of_pod);
    bpf_program__set_autoload(skeleton->progs.to_pod, of_pod);
    bpf_program__set_autoload(skeleton->progs.node_sockets_changed, !of_pod);
    bpf_program__set_autoload(skeleton->progs.node_peer4, !of_pod);
    bpf_program__set_autoload(skeleton->progs.node_peer6, !of_pod);
    skeleton->rodata->netns_cookie = cookie;
    r = steer_pin_paths(s, skeleton->obj, error);
    if (r == 0) {
        r = node_bpf__load(skeleton);
        if (r < 0)
            steer_fail(error, BRUMA_REASON_ATTACH_FAILED, r, "cannot load the programs of the node");
    }
    for (int i = 0; r == 0 && i < fds_len; i++) {
        fds[i] = duplicate(bpf_program__fd(programs[i]));
        if (fds[i] < 0)
            r = steer_fail(error, BRUMA_REASON_OUT_OF_RESOURCES, EMFILE, "descriptors");
    }
    node_bpf__destroy(skeleton);
    return r;
}

/* Any link to a device will do to see whether there are such: lo's of the agent's namespace, let go at once.
 */
static bool kernel_has_tcx(int program)
{
    _cleanup_fd_ int link = bpf_link_create(program, 1, TCX_EGRESS, NULL);

    return link >= 0;
}

enum steer_node_refusal steer_node_open(struct steer *s, struct steer_error *error)
{
    int fds[STEER_NODE_ENDS] = {-1, -1};
    bool tcx = false;
    int r = load(s, true, 0, fds, STEER_NODE_ENDS, error);

    for (int i = 0; i < STEER_NODE_ENDS && r == 0; i++)
        r = steer_program_tag(fds[i], s->node_tags[i]);
    if (r == 0)
        tcx = kernel_has_tcx(fds[0]);
    for (int i = 0; i < STEER_NODE_ENDS; i++) {
        if (fds[i] >= 0)
            close(fds[i]);
    }
    if (r < 0)
        return STEER_NODE_NO_HOOK;
    if (!tcx)
        return STEER_NODE_NO_KERNEL;
    r = load(s, false, 0, s->node_fds, STEER_NODE_HOOKS, error);
    if (r == 0)
        r = steer_cgroup_attach(s, error);
    if (r < 0 || s->node_refused) {
        steer_node_disable(s);
        return STEER_NODE_NO_HOOK;
    }
    return STEER_NODE_NONE;
}

/* ---- maps ---- */

static int map(const struct steer *s, enum bruma_node_fd which)
{
    return s->direct_fds[DIRECT_MAP_NODE + which];
}

void steer_node_fds(const struct steer *s, int ret[BRUMA_NODE_FD_COUNT])
{
    for (int i = 0; i < BRUMA_NODE_FD_COUNT; i++)
        ret[i] = map(s, (enum bruma_node_fd)i);
}

bool steer_node_hooks_refused(const struct steer *s)
{
    return s->node_refused;
}

bool steer_node_lives(const struct steer *s)
{
    struct bruma_node_control control;
    uint32_t zero = 0;

    return bpf_map_lookup_elem(map(s, BRUMA_NODE_FD_CONTROL), &zero, &control) == 0 && control.tuples > 0;
}

void steer_node_disable(struct steer *s)
{
    static const char *const links[STEER_NODE_HOOKS] = {"node-sockets", "node-peer4", "node-peer6"};
    int devices = map(s, BRUMA_NODE_FD_DEVICES);
    char path[PATH_MAX / 4];
    uint64_t cookie;

    for (int i = 0; i < STEER_NODE_HOOKS; i++) {
        if (s->node_fds[i] >= 0)
            close(take_fd(&s->node_fds[i]));
        snprintf(path, sizeof(path), "%s/links/%s", s->pin_dir, links[i]);
        unlink(path);
    }
    while (bpf_map_get_next_key(devices, NULL, &cookie) == 0) {
        if (bpf_map_delete_elem(devices, &cookie) < 0 && errno != ENOENT)
            break;
    }
}

/* ---- one pod ---- */

static bool link_is_at(int link, uint32_t device, enum bpf_attach_type type, uint32_t *ret_program)
{
    struct bpf_link_info info = {};
    __u32 len = sizeof(info);

    if (bpf_obj_get_info_by_fd(link, &info, &len) < 0)
        return false;
    *ret_program = info.prog_id;
    /* Of tcx links the kernel tells as of those of namespaces: where, and which kind. */
    return info.netns.netns_ino == device && info.netns.attach_type == (__u32)type;
}

/* Only ours, or none, is at the device; others would be passed over. */
static bool alone(uint32_t device, enum bpf_attach_type type, uint32_t own)
{
    __u32 ids[PROGRAMS_MAX], count = PROGRAMS_MAX, flags;

    if (bpf_prog_query((int)device, type, 0, &flags, ids, &count) < 0)
        return errno == ENOENT;
    return count == 0 || (count == 1 && ids[0] == own);
}

static bool same_program(uint32_t id, const uint8_t tag[8])
{
    _cleanup_fd_ int fd = bpf_prog_get_fd_by_id(id);
    uint8_t its[8];

    return fd >= 0 && steer_program_tag(fd, its) == 0 && !memcmp(its, tag, sizeof(its));
}

static enum steer_node_refusal attach(struct steer *s, const struct steer_pod *pod, uint32_t device, int i,
                                      int program, struct steer_error *error)
{
    _cleanup_fd_ int link = bpf_link_create(program, (int)device, ends[i].type, NULL);
    char path[PATH_MAX / 4];

    if (link < 0) {
        steer_fail(error, BRUMA_REASON_ATTACH_FAILED, errno, "cannot attach %s to device %u", ends[i].pin,
                   device);
        return STEER_NODE_FAILED;
    }
    steer_pod_pin_path(s, pod->cookie, ends[i].pin, path, sizeof(path));
    unlink(path);
    if (bpf_obj_pin(link, path) < 0) {
        steer_fail(error, BRUMA_REASON_ATTACH_FAILED, errno, "cannot pin %s", path);
        return STEER_NODE_FAILED;
    }
    return STEER_NODE_NONE;
}

/* *whole: both are in place, and of this build. */
static enum steer_node_refusal look(struct steer *s, const struct steer_pod *pod, uint32_t device,
                                    bool *whole)
{
    *whole = true;
    for (int i = 0; i < STEER_NODE_ENDS; i++) {
        _cleanup_fd_ int link = steer_pod_pin_open(s, pod->cookie, ends[i].pin);
        uint32_t program = 0;

        if (link < 0 || !link_is_at(link, device, ends[i].type, &program) ||
            !same_program(program, s->node_tags[i]))
            *whole = false;
        if (!alone(device, ends[i].type, program))
            return STEER_NODE_FOREIGN_PROGRAM;
    }
    return STEER_NODE_NONE;
}

static enum steer_node_refusal attach_both(struct steer *s, const struct steer_pod *pod, uint32_t device,
                                           struct steer_error *error)
{
    int programs[STEER_NODE_ENDS] = {-1, -1};
    enum steer_node_refusal refusal = load(s, true, pod->cookie, programs, STEER_NODE_ENDS, error) < 0
                                          ? STEER_NODE_FAILED
                                          : STEER_NODE_NONE;

    for (int i = STEER_NODE_ENDS - 1; i >= 0; i--) {
        if (refusal == STEER_NODE_NONE)
            refusal = attach(s, pod, device, i, programs[i], error);
        if (programs[i] >= 0)
            close(programs[i]);
    }
    return refusal;
}

enum steer_node_refusal steer_node_start(struct steer *s, const struct steer_pod *pod,
                                         struct steer_error *error)
{
    struct bruma_node_device value;
    struct steer_node_wiring wiring;
    enum steer_node_refusal refusal = steer_node_wiring(pod->netns_fd, &wiring, error);
    bool whole = false;

    if (refusal == STEER_NODE_NONE)
        refusal = look(s, pod, wiring.device, &whole);
    if (refusal == STEER_NODE_NONE && !whole) {
        steer_node_forbid(s, pod->cookie);
        refusal = attach_both(s, pod, wiring.device, error);
    }
    value = (struct bruma_node_device){.device = wiring.device, .inner = wiring.inner};
    if (refusal == STEER_NODE_NONE &&
        bpf_map_update_elem(map(s, BRUMA_NODE_FD_DEVICES), &pod->cookie, &value, BPF_ANY) < 0) {
        steer_fail(error, BRUMA_REASON_MAP_UPDATE_FAILED, errno, "cannot write node_devices");
        refusal = STEER_NODE_FAILED;
    }
    if (refusal != STEER_NODE_NONE)
        steer_node_stop(s, pod->cookie);
    return refusal;
}

/* The namespace may come back in an enrollment of the same number: no verdict of before about it counts then.
 */
static void change(struct steer *s, uint64_t cookie)
{
    size_t size = BRUMA_NODE_PLACES * sizeof(struct bruma_node_place);
    struct bruma_node_place *places =
        mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, map(s, BRUMA_NODE_FD_PLACES), 0);

    if (places == MAP_FAILED) {
        log_error_errno(errno, "verdicts between pods of the node cannot be made void");
        return;
    }
    __atomic_fetch_add(&places[bruma_node_place(cookie)].changes, 1, __ATOMIC_SEQ_CST);
    munmap(places, size);
}

void steer_node_forbid(struct steer *s, uint64_t cookie)
{
    if (bpf_map_delete_elem(map(s, BRUMA_NODE_FD_DEVICES), &cookie) == 0)
        change(s, cookie);
}

void steer_node_stop(struct steer *s, uint64_t cookie)
{
    char path[PATH_MAX / 4];

    steer_node_forbid(s, cookie);
    for (int i = 0; i < STEER_NODE_ENDS; i++) {
        steer_pod_pin_path(s, cookie, ends[i].pin, path, sizeof(path));
        unlink(path);
    }
}
