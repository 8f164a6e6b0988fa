/* SPDX-License-Identifier: Apache-2.0 */
#define LOG_SCOPE "probes"
#include "probes.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <mntent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "log.h"
#include "reasons.h"
#include "source.h"

/* ---- what pods declare ---- */

static const struct pod *pod_of(const struct agent *agent, uint64_t cookie)
{
    const struct pod *pod;

    list_for_each (pod, &agent->pods.list, node) {
        if (pod->cookie == cookie && pod->state == POD_ENROLLED)
            return pod;
    }
    return NULL;
}

static bool declares(const struct agent *agent, const struct pod *pod, const struct endpoint *target)
{
    const uint16_t *ports;
    int n = source_probe_ports(agent, pod, &ports);
    bool own = false;

    for (int i = 0; i < pod->addresses_len; i++)
        own |= addr_equal(&pod->addresses[i], &target->addr);
    for (int i = 0; own && i < n; i++) {
        if (ports[i] == target->port)
            return true;
    }
    return false;
}

void probes_register(struct agent *agent, const struct pod *pod)
{
    const uint16_t *ports;
    int n = source_probe_ports(agent, pod, &ports);

    for (int i = 0; i < n; i++) {
        for (int k = 0; k < pod->addresses_len; k++) {
            struct endpoint target = {.addr = pod->addresses[k], .port = ports[i]};
            int r = steer_probe_add(agent->steer, pod->cookie, &target);

            if (r < 0)
                log_error("a probe's port cannot be registered; policy decides about it\tpod=\"%s/%s\" "
                          "port=%u error=\"%s\"",
                          pod->namespace, pod->name, ports[i], strerror(-r));
        }
    }
}

void probes_verify(struct agent *agent)
{
    _cleanup_free_ struct steer_probe *list = NULL;
    struct pod *pod;
    int n = steer_probes(agent->steer, &list);

    if (n < 0) {
        log_error("the registered probes cannot be read\terror=\"%s\"", strerror(-n));
        return;
    }
    for (int i = 0; i < n; i++) {
        const struct pod *owner = pod_of(agent, list[i].cookie);

        /* A source that is not ready yet has told nothing: what an earlier agent registered stays. */
        if (owner ? source_knows_pod(agent, owner) && !declares(agent, owner, &list[i].target)
                  : source_ready(agent))
            steer_probe_remove(agent->steer, &list[i].target);
    }
    list_for_each (pod, &agent->pods.list, node) {
        if (pod->state == POD_ENROLLED)
            probes_register(agent, pod);
    }
}

/* ---- the kubelet ---- */

static ssize_t read_at(int directory, const char *path, char *buf, size_t size)
{
    _cleanup_fd_ int fd = openat(directory, path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : read(fd, buf, size - 1);

    buf[n > 0 ? n : 0] = '\0';
    return n;
}

/* The line of cgroup2 in /proc/PID/cgroup: "0::/system.slice/kubelet.service". */
static int take_group(char *text, const char *mount, char *buf, size_t size)
{
    char *line = strncmp(text, "0::/", 4) ? strstr(text, "\n0::/") : text - 1;
    char *path, *end;

    if (!line)
        return -ENOENT;
    path = line + 1 + 3;
    end = strchr(path, '\n');
    if (end)
        *end = '\0';
    if (!strcmp(path, "/") || !strncmp(path, "/..", 3)) /* above the root of our own cgroup namespace */
        return -EXDEV;
    return snprintf(buf, size, "%s%s", mount, path) >= (int)size ? -ENAMETOOLONG : 0;
}

int probes_find_kubelet(const char *proc, const char *mount, char *buf, size_t size)
{
    DIR *dir = opendir(proc);
    struct dirent *e;
    int r = -ENOENT;

    if (!dir)
        return -errno;
    while (r == -ENOENT && (e = readdir(dir))) {
        char path[300], text[8192];

        if (!isdigit((unsigned char)*e->d_name))
            continue;
        snprintf(path, sizeof(path), "%s/comm", e->d_name);
        if (read_at(dirfd(dir), path, text, sizeof(text)) <= 0 || strcmp(text, "kubelet\n") != 0)
            continue;
        snprintf(path, sizeof(path), "%s/cgroup", e->d_name);
        if (read_at(dirfd(dir), path, text, sizeof(text)) > 0)
            r = take_group(text, mount, buf, size);
    }
    closedir(dir);
    return r;
}

static int cgroup2_mount(char *buf, size_t size)
{
    FILE *mounts = setmntent("/proc/self/mounts", "re");
    struct mntent *m;
    int r = -ENOENT;

    if (!mounts)
        return -errno;
    while (r == -ENOENT && (m = getmntent(mounts))) {
        if (!strcmp(m->mnt_type, "cgroup2"))
            r = snprintf(buf, size, "%s", m->mnt_dir) >= (int)size ? -ENAMETOOLONG : 0;
    }
    endmntent(mounts);
    return r;
}

const char *probes_cgroup(const char *setting, char *buf, size_t size)
{
    char mount[512];
    int r;

    if (!setting || strcmp(setting, PROBES_CGROUP_AUTO) != 0)
        return setting;
    r = cgroup2_mount(mount, sizeof(mount));
    if (r == 0)
        r = probes_find_kubelet("/proc", mount, buf, size);
    if (r == 0) {
        log_info("the kubelet's probes go straight to applications\tcgroup=%s", buf);
        return buf;
    }
    log_warn("probes of the kubelet are subject to policy\treason=%s error=\"%s\"",
             reason_name(BRUMA_REASON_KUBELET_NOT_FOUND),
             r == -EXDEV ? "the kubelet has no cgroup of its own that can be seen from here" : strerror(-r));
    return NULL;
}
