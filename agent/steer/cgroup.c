/* SPDX-License-Identifier: Apache-2.0 */
/* The hooks of connect(), of options and of accepted connections on the pods' cgroup, and the probe hook on
 * the kubelet's. */
#define LOG_SCOPE "steer"
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "agent/steer/internal.h"
#include "lib/cleanup.h"
#include "lib/log.h"

struct hook {
    const char *name;
    enum bpf_attach_type type;
    int program;
    const char *cgroup;
    bool *refused; /* set where it cannot be attached; NULL: it may not be done without */
};

static int hooks(struct steer *s, struct hook ret[STEER_HOOKS])
{
    static const struct {
        const char *name;
        enum bpf_attach_type type;
    } node[STEER_NODE_HOOKS] = {{"node-sockets", BPF_CGROUP_SOCK_OPS},
                                {"node-peer4", BPF_CGROUP_INET4_GETPEERNAME},
                                {"node-peer6", BPF_CGROUP_INET6_GETPEERNAME}};
    struct stat st;
    int n = 2;

    ret[0] = (struct hook){"connect4", BPF_CGROUP_INET4_CONNECT, s->connect_fds[0], s->cgroup};
    ret[1] = (struct hook){"connect6", BPF_CGROUP_INET6_CONNECT, s->connect_fds[1], s->cgroup};
    ret[n++] = (struct hook){"setsockopt", BPF_CGROUP_SETSOCKOPT, s->option_fds[0], s->cgroup};
    if (s->option_fds[1] >= 0) {
        ret[n++] = (struct hook){"options4", BPF_CGROUP_INET4_CONNECT, s->option_fds[1], s->cgroup};
        ret[n++] = (struct hook){"options6", BPF_CGROUP_INET6_CONNECT, s->option_fds[2], s->cgroup};
    }
    if (s->accepted_fd >= 0)
        ret[n++] =
            (struct hook){"accepted", BPF_CGROUP_SOCK_OPS, s->accepted_fd, s->cgroup, &s->accepted_refused};
    if (s->released_fd >= 0)
        ret[n++] = (struct hook){"released", BPF_CGROUP_INET_SOCK_RELEASE, s->released_fd, s->cgroup,
                                 &s->released_refused};
    for (size_t i = 0; i < STEER_NODE_HOOKS && s->node_fds[i] >= 0; i++)
        ret[n++] = (struct hook){node[i].name, node[i].type, s->node_fds[i], s->cgroup, &s->node_refused};
    /* A kubelet that is not running has no cgroup. Its probes fail by themselves; repairing finds its next
     * one.
     */
    if (*s->probe_cgroup && stat(s->probe_cgroup, &st) == 0)
        ret[n++] = (struct hook){"probes", BPF_CGROUP_SOCK_OPS, s->probes_fd, s->probe_cgroup};
    return n;
}

static void link_path(const struct steer *s, const char *name, char *buf, size_t size)
{
    snprintf(buf, size, "%s/links/%s", s->pin_dir, name);
}

/*
 * Another program may hold the hook of a parent exclusively, which makes ours fail, or overridably, which
 * would switch it off for our pods without a word. Either is a refusal.
 */
static int check_ancestors(const struct hook *h, struct steer_error *error)
{
    char path[PATH_MAX / 8];
    size_t len;

    snprintf(path, sizeof(path), "%s", h->cgroup);
    for (len = strlen(path); len > 1; len = (size_t)(strrchr(path, '/') - path)) {
        _cleanup_fd_ int fd = -1;
        __u32 flags = 0, count = 0;

        path[len] = '\0';
        fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (fd < 0 || bpf_prog_query(fd, h->type, 0, &flags, NULL, &count) < 0)
            break; /* above the hierarchy */
        if (count && !(flags & BPF_F_ALLOW_MULTI)) {
            error->reason = BRUMA_REASON_CGROUP_OCCUPIED;
            snprintf(error->text, sizeof(error->text),
                     "another program holds %s of cgroup %.120s %s; it must be attached with multi", h->name,
                     path, flags & BPF_F_ALLOW_OVERRIDE ? "overridably" : "exclusively");
            return -EPERM;
        }
        if (!strchr(path + 1, '/'))
            break;
    }
    return 0;
}

static int link_info(int fd, struct bpf_link_info *ret)
{
    __u32 len = sizeof(*ret);

    memset(ret, 0, sizeof(*ret));
    return bpf_obj_get_info_by_fd(fd, ret, &len) < 0 ? -errno : 0;
}

/* A cgroup's id is its inode number. */
bool steer_link_attached_to(int link_fd, const char *cgroup)
{
    struct bpf_link_info info;
    struct stat st;

    return link_info(link_fd, &info) == 0 && stat(cgroup, &st) == 0 && info.cgroup.cgroup_id == st.st_ino;
}

static int attach(const struct steer *s, const struct hook *h, struct steer_error *error)
{
    char path[PATH_MAX / 4];
    _cleanup_fd_ int link = -1, cgroup = -1;
    struct statfs fs;
    int r;

    link_path(s, h->name, path, sizeof(path));
    link = bpf_obj_get(path);
    if (link < 0 && errno != ENOENT && errno != ENOTDIR)
        return steer_fail(error, BRUMA_REASON_ATTACH_FAILED, errno, "cannot open %s", path);
    if (link >= 0 && steer_link_attached_to(link, h->cgroup)) {
        /* Adopted. The same call puts this build's program in the place of another's, in one step. */
        if (bpf_link_update(link, h->program, NULL) == 0)
            return 0;
        return steer_fail(error, BRUMA_REASON_ATTACH_FAILED, errno, "cannot update the program of %s", path);
    }
    r = check_ancestors(h, error);
    if (r < 0)
        return r;
    cgroup = open(h->cgroup, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (cgroup < 0)
        return steer_fail(error, BRUMA_REASON_CGROUP_UNUSABLE, errno, "cannot open the cgroup %s", h->cgroup);
    if (fstatfs(cgroup, &fs) < 0 || (unsigned long)fs.f_type != CGROUP2_SUPER_MAGIC)
        return steer_fail(error, BRUMA_REASON_CGROUP_UNUSABLE, ENOTSUP, "%s is not in the cgroup2 hierarchy",
                          h->cgroup);
    if (link >= 0) {
        close(take_fd(&link));
        unlink(path); /* of a cgroup that is gone, or that is no longer ours */
    }
    link = bpf_link_create(h->program, cgroup, h->type, NULL);
    if (link < 0)
        return steer_fail(error, errno == EPERM ? BRUMA_REASON_CGROUP_OCCUPIED : BRUMA_REASON_ATTACH_FAILED,
                          errno, "cannot attach %s to cgroup %s", h->name, h->cgroup);
    if (bpf_obj_pin(link, path) < 0)
        return steer_fail(error, BRUMA_REASON_ATTACH_FAILED, errno, "cannot pin %s", path);
    return 0;
}

int steer_cgroup_attach(struct steer *s, struct steer_error *error)
{
    struct hook all[STEER_HOOKS];
    int n = hooks(s, all), r = 0;

    for (int i = 0; i < n && r == 0; i++) {
        r = attach(s, &all[i], error);
        if (r == 0 || !all[i].refused)
            continue;
        if (!*all[i].refused)
            log_warn("a hook at the pods' cgroup is done without: brumactl doctor says what that "
                     "costs\thook=%s error=\"%s\"",
                     all[i].name, error->text);
        *all[i].refused = true;
        r = 0;
    }
    return r;
}

int steer_cgroup_verify(struct steer *s)
{
    struct hook all[STEER_HOOKS];
    int n = hooks(s, all);

    for (int i = 0; i < n; i++) {
        char path[PATH_MAX / 4];
        _cleanup_fd_ int link = -1;

        link_path(s, all[i].name, path, sizeof(path));
        link = bpf_obj_get(path);
        if (all[i].refused && *all[i].refused)
            continue;
        if (link < 0 && errno != ENOENT && errno != ENOTDIR)
            return -errno; /* it cannot be told */
        if (link < 0 || !steer_link_attached_to(link, all[i].cgroup))
            return -ENOLINK;
    }
    return 0;
}

static struct steer_hook describe(const struct steer *s, const struct hook *h)
{
    struct steer_hook ret = {.name = h->name, .cgroup = h->cgroup, .state = STEER_HOOK_MISSING};
    char path[PATH_MAX / 4];
    _cleanup_fd_ int link = -1;
    struct bpf_link_info info;

    link_path(s, h->name, path, sizeof(path));
    link = bpf_obj_get(path);
    if (link < 0)
        ret.state = errno != ENOENT && errno != ENOTDIR ? STEER_HOOK_UNKNOWN
                    : h->refused && *h->refused         ? STEER_HOOK_FOREGONE
                                                        : STEER_HOOK_MISSING;
    else if (steer_link_attached_to(link, h->cgroup) && link_info(link, &info) == 0) {
        ret.state = STEER_HOOK_ATTACHED;
        ret.program = info.prog_id;
    }
    return ret;
}

int steer_cgroup_hooks(struct steer *s, struct steer_hook ret[STEER_HOOKS])
{
    static const char *const names[] = {"options4", "options6", "accepted", "released"};
    struct hook all[STEER_HOOKS];
    int n = hooks(s, all), count = 0;

    for (int i = 0; i < n; i++)
        ret[count++] = describe(s, &all[i]);
    for (size_t i = 0; i < array_size(names); i++) {
        bool is_there = false;

        for (int k = 0; k < n; k++)
            is_there |= !strcmp(all[k].name, names[i]);
        if (!is_there && count < STEER_HOOKS)
            ret[count++] = (struct steer_hook){.name = names[i], .state = STEER_HOOK_NO_KERNEL};
    }
    return count;
}

int steer_cgroup_repair(struct steer *s, struct steer_error *error)
{
    return steer_cgroup_attach(s, error);
}

int steer_probe_cgroup(struct steer *s, const char *cgroup, struct steer_error *error)
{
    if (snprintf(s->probe_cgroup, sizeof(s->probe_cgroup), "%s", cgroup) >= (int)sizeof(s->probe_cgroup)) {
        s->probe_cgroup[0] = '\0';
        return steer_fail(error, BRUMA_REASON_INTERNAL, ENAMETOOLONG, "cgroup %s", cgroup);
    }
    return steer_cgroup_attach(s, error);
}
