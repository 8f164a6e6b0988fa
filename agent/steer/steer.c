/* SPDX-License-Identifier: Apache-2.0 */
#define LOG_SCOPE "steer"
#include "agent/steer/steer.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "agent/steer/internal.h"
#include "bpf/connect.skel.h"
#include "bpf/probes.skel.h"
#include "lib/cleanup.h"
#include "lib/log.h"

static int print_libbpf(enum libbpf_print_level level, const char *format, va_list ap)
{
    char text[512];

    if (level > LIBBPF_WARN && !log_enabled(LOG_LEVEL_TRACE, LOG_SCOPE))
        return 0;
    vsnprintf(text, sizeof(text), format, ap);
    text[strcspn(text, "\n")] = '\0';
    log_write(level == LIBBPF_WARN ? LOG_LEVEL_DEBUG : LOG_LEVEL_TRACE, LOG_SCOPE, "%s", text);
    return 0;
}

/* ---- maps and programs ---- */

static int load_failed(struct steer_error *error, int r, const char *what)
{
    return steer_fail(error, BRUMA_REASON_INTERNAL, r, "cannot load %s", what);
}

static int duplicate(int fd)
{
    return fcntl(fd, F_DUPFD_CLOEXEC, 3);
}

/* reads_sockets: whether the kernel lets the programs look into its sockets. */
static int open_connect(struct steer *s, bool reads_sockets, struct connect_bpf **ret,
                        struct steer_error *error)
{
    struct connect_bpf *skeleton = connect_bpf__open();
    int r;

    if (!skeleton)
        return load_failed(error, -errno, "the connect programs");
    skeleton->rodata->reads_sockets = reads_sockets;
    r = steer_pin_paths(s, skeleton->obj, error);
    if (r == 0) {
        r = connect_bpf__load(skeleton);
        if (r < 0)
            r = load_failed(error, r, "the connect programs");
    }
    if (r < 0)
        connect_bpf__destroy(skeleton);
    else
        *ret = skeleton;
    return r;
}

static int load_connect(struct steer *s, struct steer_error *error)
{
    struct connect_bpf *skeleton = NULL;
    struct steer_error why;
    int r = open_connect(s, true, &skeleton, &why);

    if (r < 0) {
        r = open_connect(s, false, &skeleton, error);
        if (r == 0)
            log_warn("this kernel does not allow looking into a socket when it connects: no connection goes "
                     "directly to outside the mesh\terror=\"%s\"",
                     why.text);
    }
    if (r == 0 && skeleton) {
        s->pods_fd = duplicate(bpf_map__fd(skeleton->maps.pods));
        s->pod_counters_fd = duplicate(bpf_map__fd(skeleton->maps.pod_counters));
        s->failures_fd = duplicate(bpf_map__fd(skeleton->maps.failures));
        s->proxy_sockets_fd = duplicate(bpf_map__fd(skeleton->maps.proxy_sockets));
        s->proxy_cgroups_fd = duplicate(bpf_map__fd(skeleton->maps.proxy_cgroups));
        s->dns_sockets_fd = duplicate(bpf_map__fd(skeleton->maps.dns_sockets));
        s->excluded_ranges_fd = duplicate(bpf_map__fd(skeleton->maps.excluded_ranges));
        s->excluded_ports_fd = duplicate(bpf_map__fd(skeleton->maps.excluded_ports));
        s->exclusion_counters_fd = duplicate(bpf_map__fd(skeleton->maps.exclusion_counters));
        s->deliveries_fd = duplicate(bpf_map__fd(skeleton->maps.deliveries));
        s->connect_fds[0] = duplicate(bpf_program__fd(skeleton->progs.connect4));
        s->connect_fds[1] = duplicate(bpf_program__fd(skeleton->progs.connect6));
        if (s->pods_fd < 0 || s->pod_counters_fd < 0 || s->failures_fd < 0 || s->proxy_sockets_fd < 0 ||
            s->proxy_cgroups_fd < 0 || s->deliveries_fd < 0 || s->dns_sockets_fd < 0 ||
            s->excluded_ranges_fd < 0 || s->excluded_ports_fd < 0 || s->exclusion_counters_fd < 0 ||
            s->connect_fds[0] < 0 || s->connect_fds[1] < 0)
            r = steer_fail(error, BRUMA_REASON_OUT_OF_RESOURCES, EMFILE, "descriptors");
        if (r == 0) {
            r = steer_direct_take(s, skeleton->obj);
            if (r < 0)
                r = steer_fail(error, BRUMA_REASON_OUT_OF_RESOURCES, r, "maps of direct ways");
        }
    }
    connect_bpf__destroy(skeleton);
    return r;
}

static int load_probes(struct steer *s, struct steer_error *error)
{
    struct probes_bpf *skeleton = probes_bpf__open();
    int r;

    if (!skeleton)
        return load_failed(error, -errno, "the probe program");
    r = steer_pin_paths(s, skeleton->obj, error);
    if (r == 0) {
        r = probes_bpf__load(skeleton);
        if (r < 0)
            r = load_failed(error, r, "the probe program");
    }
    if (r == 0) {
        s->probe_targets_fd = duplicate(bpf_map__fd(skeleton->maps.probe_targets));
        s->probe_tuples_fd = duplicate(bpf_map__fd(skeleton->maps.probe_tuples));
        s->probes_fd = duplicate(bpf_program__fd(skeleton->progs.probes));
        if (s->probe_targets_fd < 0 || s->probe_tuples_fd < 0 || s->probes_fd < 0)
            r = steer_fail(error, BRUMA_REASON_OUT_OF_RESOURCES, EMFILE, "descriptors");
    }
    probes_bpf__destroy(skeleton);
    return r;
}

/* Pods that were enrolled by another build get this build's program, without a moment in between. */
static int update_pods(struct steer *s, struct steer_error *error)
{
    _cleanup_free_ uint64_t *cookies = NULL;
    _cleanup_fd_ int program = -1, listeners = -1;
    int r, n = steer_pods_pinned(s, &cookies);

    if (n < 0)
        return steer_fail(error, BRUMA_REASON_INTERNAL, n, "cannot list the pinned pods");
    /* One instance for nobody: its tag tells whether pinned ones are of this build, and loading it probes the
     * kernel. */
    r = steer_pod_program_load(s, 0, -1, &program, &listeners, error);
    if (r == 0)
        r = steer_program_tag(program, s->lookup_tag);
    for (int i = 0; r >= 0 && cookies && i < n; i++) {
        struct steer_error ignored;

        (void)steer_direct_add(s, cookies[i]); /* an older version has not */
        if (steer_pod_program_update(s, cookies[i], &ignored) < 0)
            log_warn("the program of a pod could not be renewed\tcookie=%llu error=\"%s\"",
                     (unsigned long long)cookies[i], ignored.text);
    }
    return r;
}

static void init_fds(struct steer *s)
{
    s->lock_fd = s->pods_fd = s->pod_counters_fd = s->failures_fd = s->proxy_sockets_fd =
        s->proxy_cgroups_fd = s->probe_targets_fd = s->probe_tuples_fd = s->deliveries_fd =
            s->dns_sockets_fd = s->excluded_ranges_fd = s->excluded_ports_fd = s->exclusion_counters_fd = -1;
    s->connect_fds[0] = s->connect_fds[1] = s->probes_fd = s->accepted_fd = s->released_fd = s->sweep_fd =
        s->forget_fd = -1;
    s->node_fds[0] = s->node_fds[1] = s->node_fds[2] = -1;
    s->option_fds[0] = s->option_fds[1] = s->option_fds[2] = -1;
    for (size_t i = 0; i < DIRECT_MAPS; i++)
        s->direct_fds[i] = -1;
    s->live_fd = s->guard_fd = s->sandboxes_fd = s->guard_fds[0] = s->guard_fds[1] = s->guard_fds[2] = -1;
}

int steer_open(const struct steer_config *config, struct steer **ret, struct steer_error *error)
{
    struct steer *s = calloc(1, sizeof(*s));
    int r;

    if (!s)
        return steer_fail(error, BRUMA_REASON_OUT_OF_RESOURCES, ENOMEM, "steering");
    init_fds(s);
    libbpf_set_print(print_libbpf);
    if (snprintf(s->pin_dir, sizeof(s->pin_dir), "%s", config->pin_dir) >= (int)sizeof(s->pin_dir) ||
        snprintf(s->cgroup, sizeof(s->cgroup), "%s", config->cgroup) >= (int)sizeof(s->cgroup) ||
        snprintf(s->probe_cgroup, sizeof(s->probe_cgroup), "%s",
                 config->probe_cgroup ? config->probe_cgroup : "") >= (int)sizeof(s->probe_cgroup)) {
        free(s);
        return steer_fail(error, BRUMA_REASON_INTERNAL, ENAMETOOLONG, "pin or cgroup directory");
    }
    r = pin_dir_prepare(s->pin_dir, error);
    if (r == 0)
        r = pin_dir_lock(s, error);
    if (r == 0)
        r = load_connect(s, error);
    if (r == 0)
        r = load_probes(s, error);
    if (r == 0)
        r = steer_guard_load(s, error);
    if (r == 0)
        r = steer_options_load(s, error);
    if (r == 0)
        steer_live_load(s);
    if (r == 0) {
        steer_accepted_load(s);
        steer_sweep_load(s);
    }
    if (r == 0) {
        r = steer_direct_count(s, config->max_direct_connections ? config->max_direct_connections
                                                                 : BRUMA_MAX_FLOWS - BRUMA_FLOWS_SPARE);
        if (r < 0)
            r = steer_fail(error, BRUMA_REASON_MAP_UPDATE_FAILED, r, "limits of direct connections");
    }
    if (r == 0)
        r = update_pods(s, error);
    if (r == 0)
        r = steer_cgroup_attach(s, error);
    if (r < 0) {
        steer_close(&s);
        return r;
    }
    *ret = s;
    return 0;
}

void steer_close(struct steer **ptr)
{
    struct steer *s = *ptr;

    if (!s)
        return;
    const int fds[] = {s->lock_fd,
                       s->pods_fd,
                       s->pod_counters_fd,
                       s->failures_fd,
                       s->proxy_sockets_fd,
                       s->proxy_cgroups_fd,
                       s->probe_targets_fd,
                       s->probe_tuples_fd,
                       s->connect_fds[0],
                       s->connect_fds[1],
                       s->probes_fd,
                       s->live_fd,
                       s->deliveries_fd,
                       s->accepted_fd,
                       s->released_fd,
                       s->sweep_fd,
                       s->forget_fd,
                       s->dns_sockets_fd,
                       s->excluded_ranges_fd,
                       s->excluded_ports_fd,
                       s->exclusion_counters_fd};

    for (size_t i = 0; i < array_size(fds); i++) {
        if (fds[i] >= 0)
            close(fds[i]);
    }
    steer_guard_unload(s);
    steer_options_unload(s);
    steer_direct_release(s);
    for (size_t i = 0; i < STEER_NODE_HOOKS; i++) {
        if (s->node_fds[i] >= 0)
            close(s->node_fds[i]);
    }
    free(s);
    *ptr = NULL;
}

int steer_proxy_sockets_fd(const struct steer *s)
{
    return s->proxy_sockets_fd;
}

int steer_deliveries_fd(const struct steer *s)
{
    return s->deliveries_fd;
}

/* ---- what the maps say ---- */

int steer_failure_count(struct steer *s, enum bruma_reason reason, struct bruma_failure_count *ret)
{
    int cpus = libbpf_num_possible_cpus();
    _cleanup_free_ struct bruma_failure_count *each = NULL;

    *ret = (struct bruma_failure_count){};
    if (cpus < 0)
        return cpus;
    each = calloc((size_t)cpus, sizeof(*each));
    if (!each)
        return -ENOMEM;
    if (bpf_map_lookup_elem(s->failures_fd, &reason, each) < 0)
        return errno == ENOENT ? 0 : -errno; /* it has not happened */
    for (int i = 0; i < cpus; i++) {
        ret->count += each[i].count;
        if (each[i].last_seen_nanoseconds > ret->last_seen_nanoseconds)
            ret->last_seen_nanoseconds = each[i].last_seen_nanoseconds;
    }
    return 0;
}

#define PROBES_MAX 8192

static struct bruma_endpoint map_endpoint(const struct endpoint *e)
{
    struct bruma_endpoint m = {.port = e->port};

    memcpy(m.address.bytes, e->addr.bytes, sizeof(m.address.bytes));
    return m;
}

int steer_probe_add(struct steer *s, uint64_t cookie, const struct endpoint *target)
{
    struct bruma_endpoint key = map_endpoint(target);
    struct bruma_probe_target value = {.netns_cookie = cookie};

    return bpf_map_update_elem(s->probe_targets_fd, &key, &value, BPF_ANY) < 0 ? -errno : 0;
}

int steer_probe_remove(struct steer *s, const struct endpoint *target)
{
    struct bruma_endpoint key = map_endpoint(target);

    return bpf_map_delete_elem(s->probe_targets_fd, &key) < 0 && errno != ENOENT ? -errno : 0;
}

int steer_probes(const struct steer *s, struct steer_probe **ret)
{
    _cleanup_free_ struct steer_probe *list = NULL;
    struct bruma_endpoint key, *previous = NULL;
    struct bruma_probe_target value;
    int len = 0;

    /* An entry that vanishes meanwhile makes the walk begin anew: more than the map holds is no list. */
    while (len < PROBES_MAX && bpf_map_get_next_key(s->probe_targets_fd, previous, &key) == 0) {
        struct steer_probe *grown = reallocarray(list, (size_t)len + 1, sizeof(*list));

        if (!grown)
            return -ENOMEM;
        list = grown;
        previous = &key;
        if (bpf_map_lookup_elem(s->probe_targets_fd, &key, &value) < 0)
            continue;
        list[len] =
            (struct steer_probe){.cookie = value.netns_cookie, .target = {.port = (uint16_t)key.port}};
        memcpy(list[len++].target.addr.bytes, key.address.bytes, sizeof(key.address.bytes));
    }
    *ret = take_pointer(list);
    return len;
}
