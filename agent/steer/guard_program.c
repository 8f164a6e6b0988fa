/* SPDX-License-Identifier: Apache-2.0 */
/* The guard's programs and maps: attached while it is closed, and to the pods' cgroup alone. */
#define LOG_SCOPE "steer"
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "agent/steer/internal.h"
#include "bpf/guard.skel.h"
#include "lib/cleanup.h"
#include "lib/log.h"

#define HOOKS 3

static const struct {
    const char *name;
    enum bpf_attach_type type;
} hooks[HOOKS] = {
    {"guard-connect4", BPF_CGROUP_INET4_CONNECT},
    {"guard-connect6", BPF_CGROUP_INET6_CONNECT},
    {"guard-inbound", BPF_CGROUP_INET_INGRESS},
};

static int duplicate(int fd)
{
    return fcntl(fd, F_DUPFD_CLOEXEC, 3);
}

static int load(struct steer *s, bool inbound, struct steer_error *error)
{
    struct guard_bpf *skeleton = guard_bpf__open();
    int r;

    if (!skeleton)
        return steer_fail(error, BRUMA_REASON_GUARD_FAILED, errno, "cannot open the guard's programs");
    r = steer_pin_paths(s, skeleton->obj, error);
    if (r == 0 && !inbound)
        r = bpf_program__set_autoload(skeleton->progs.guard_inbound, false);
    if (r == 0) {
        r = guard_bpf__load(skeleton);
        if (r < 0)
            steer_fail(error, BRUMA_REASON_GUARD_FAILED, r, "cannot load the guard's programs");
    }
    if (r == 0) {
        s->guard_fd = duplicate(bpf_map__fd(skeleton->maps.guard));
        s->sandboxes_fd = duplicate(bpf_map__fd(skeleton->maps.sandboxes));
        s->guard_fds[0] = duplicate(bpf_program__fd(skeleton->progs.guard4));
        s->guard_fds[1] = duplicate(bpf_program__fd(skeleton->progs.guard6));
        if (inbound)
            s->guard_fds[2] = duplicate(bpf_program__fd(skeleton->progs.guard_inbound));
        if (s->guard_fd < 0 || s->sandboxes_fd < 0 || s->guard_fds[0] < 0 || s->guard_fds[1] < 0 ||
            (inbound && s->guard_fds[2] < 0))
            r = steer_fail(error, BRUMA_REASON_OUT_OF_RESOURCES, EMFILE, "descriptors");
    }
    guard_bpf__destroy(skeleton);
    return r;
}

int steer_guard_load(struct steer *s, struct steer_error *error)
{
    if (load(s, true, error) == 0)
        return 0;
    log_debug("connections to undecided pods cannot be held back on this kernel\terror=\"%s\"", error->text);
    steer_guard_unload(s);
    return load(s, false, error);
}

void steer_guard_unload(struct steer *s)
{
    int *fds[] = {&s->guard_fd, &s->sandboxes_fd, &s->guard_fds[0], &s->guard_fds[1], &s->guard_fds[2]};

    for (size_t i = 0; i < array_size(fds); i++) {
        if (*fds[i] >= 0)
            close(*fds[i]);
        *fds[i] = -1;
    }
}

bool steer_guard_holds_inbound(const struct steer *s)
{
    return s->guard_fds[2] >= 0;
}

static void link_path(const struct steer *s, int i, char *buf, size_t size)
{
    snprintf(buf, size, "%s/links/%s", s->pin_dir, hooks[i].name);
}

static int attach(struct steer *s, int i, const char *cgroup, struct steer_error *error)
{
    char path[PATH_MAX / 4];
    _cleanup_fd_ int link = -1, directory = -1;

    link_path(s, i, path, sizeof(path));
    link = bpf_obj_get(path);
    if (link >= 0 && steer_link_attached_to(link, cgroup) &&
        bpf_link_update(link, s->guard_fds[i], NULL) == 0)
        return 0;
    directory = open(cgroup, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (directory < 0)
        return steer_fail(error, BRUMA_REASON_GUARD_FAILED, errno, "cgroup %s", cgroup);
    if (link >= 0) {
        close(take_fd(&link));
        unlink(path);
    }
    link = bpf_link_create(s->guard_fds[i], directory, hooks[i].type, NULL);
    if (link < 0)
        return steer_fail(error, BRUMA_REASON_GUARD_FAILED, errno, "cannot attach %s to cgroup %s",
                          hooks[i].name, cgroup);
    if (bpf_obj_pin(link, path) < 0)
        return steer_fail(error, BRUMA_REASON_GUARD_FAILED, errno, "cannot pin %s", path);
    return 0;
}

static int set(struct steer *s, uint64_t until)
{
    const struct bruma_guard value = {.closed_until_nanoseconds = until};
    const __u32 zero = 0;

    return bpf_map_update_elem(s->guard_fd, &zero, &value, BPF_ANY) < 0 ? -errno : 0;
}

int steer_guard_close(struct steer *s, const char *cgroup, uint64_t until, struct steer_error *error)
{
    int r = set(s, until);

    if (r < 0)
        return steer_fail(error, BRUMA_REASON_GUARD_FAILED, r, "cannot write the guard's map");
    for (int i = 0; i < HOOKS && r == 0; i++) {
        if (s->guard_fds[i] >= 0)
            r = attach(s, i, cgroup, error);
    }
    return r;
}

uint64_t steer_guard_closed_until(const struct steer *s)
{
    struct bruma_guard value;
    const __u32 zero = 0;

    return bpf_map_lookup_elem(s->guard_fd, &zero, &value) < 0 ? 0 : value.closed_until_nanoseconds;
}

void steer_guard_lapse(struct steer *s)
{
    char path[PATH_MAX / 4];

    for (int i = 0; i < HOOKS; i++) {
        link_path(s, i, path, sizeof(path));
        unlink(path);
    }
}

void steer_guard_open(struct steer *s)
{
    (void)set(s, 0);
    steer_guard_lapse(s);
}

/* ---- what is known of sandboxes ---- */

int steer_sandbox_pass(struct steer *s, uint64_t cookie, enum bruma_sandbox_state state, const char *pod)
{
    struct bruma_sandbox value = {.state = state}, old;

    if (bpf_map_lookup_elem(s->sandboxes_fd, &cookie, &old) == 0) {
        value.refused_connections = old.refused_connections;
        value.first_refused_nanoseconds = old.first_refused_nanoseconds;
    }
    snprintf(value.pod, sizeof(value.pod), "%s", pod);
    return bpf_map_update_elem(s->sandboxes_fd, &cookie, &value, BPF_ANY) < 0 ? -errno : 0;
}

int steer_sandbox_forget(struct steer *s, uint64_t cookie)
{
    return bpf_map_delete_elem(s->sandboxes_fd, &cookie) < 0 && errno != ENOENT ? -errno : 0;
}

bool steer_sandbox_decided(struct steer *s, uint64_t cookie)
{
    struct bruma_sandbox sandbox;
    struct bruma_pod pod;

    if (steer_pod_entry(s, cookie, &pod) == 0 && (pod.flags & BRUMA_POD_CAPTURE_OUTBOUND))
        return true;
    return bpf_map_lookup_elem(s->sandboxes_fd, &cookie, &sandbox) == 0 &&
           sandbox.state != BRUMA_SANDBOX_UNDECIDED;
}

int steer_sandboxes(struct steer *s, uint64_t **ret)
{
    _cleanup_free_ uint64_t *list = NULL;
    uint64_t key, *previous = NULL;
    int len = 0;

    while (len < BRUMA_MAX_SANDBOXES && bpf_map_get_next_key(s->sandboxes_fd, previous, &key) == 0) {
        uint64_t *grown = reallocarray(list, (size_t)len + 1, sizeof(*list));

        if (!grown)
            return -ENOMEM;
        list = grown;
        list[len++] = key;
        previous = &key;
    }
    *ret = take_pointer(list);
    return len;
}
