/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/api/host_checks.h"

#include <bpf/libbpf.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/timex.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "agent/api/ctl_finding.h"
#include "agent/install/install_network.h"
#include "lib/cleanup.h"
#include "lib/device_mtu.h"
#include "lib/reasons.h"

#define PROGRAMS_MAX 64
#define CNI_CONF_DIR "/etc/cni/net.d" /* where nothing else is said */
#define MTU_MIN      1280             /* bytes: what IPv6 needs */

const struct host_hook host_hooks[HOST_HOOKS] = {{BPF_CGROUP_INET4_CONNECT, "connect4"},
                                                 {BPF_CGROUP_INET6_CONNECT, "connect6"},
                                                 {BPF_CGROUP_SETSOCKOPT, "setsockopt"},
                                                 {BPF_CGROUP_SOCK_OPS, "sock_ops"},
                                                 {BPF_CGROUP_INET_SOCK_RELEASE, "sock_release"}};

void host_check_kernel(struct ctl_answer *c)
{
    static const struct {
        enum bpf_prog_type type;
        const char *what;
    } types[] = {{BPF_PROG_TYPE_SK_LOOKUP, "sk_lookup programs"},
                 {BPF_PROG_TYPE_CGROUP_SOCK_ADDR, "connect hooks"},
                 {BPF_PROG_TYPE_SOCK_OPS, "sockops programs"}};
    static const struct {
        enum bpf_prog_type type;
        enum bpf_func_id helper;
        const char *what;
    } helpers[] = {{BPF_PROG_TYPE_SK_LOOKUP, BPF_FUNC_sk_assign, "bpf_sk_assign"},
                   {BPF_PROG_TYPE_CGROUP_SOCK_ADDR, BPF_FUNC_get_netns_cookie, "bpf_get_netns_cookie"},
                   {BPF_PROG_TYPE_CGROUP_SOCK_ADDR, BPF_FUNC_setsockopt, "bpf_setsockopt"},
                   {BPF_PROG_TYPE_CGROUP_SOCK_ADDR, BPF_FUNC_set_retval, "bpf_set_retval"}};
    struct utsname u;

    uname(&u);
    for (size_t i = 0; i < array_size(types); i++) {
        bool ok = libbpf_probe_bpf_prog_type(types[i].type, NULL) == 1;

        ctl_finding(c, "kernel", ok, ok ? BRUMA_REASON_NONE : BRUMA_REASON_ATTACH_FAILED, "Linux %s %s %s",
                    u.release, ok ? "has" : "lacks", types[i].what);
    }
    for (size_t i = 0; i < array_size(helpers); i++) {
        bool ok = libbpf_probe_bpf_helper(helpers[i].type, helpers[i].helper, NULL) == 1;

        ctl_finding(c, "kernel", ok, ok ? BRUMA_REASON_NONE : BRUMA_REASON_ATTACH_FAILED, "Linux %s %s %s",
                    u.release, ok ? "has" : "lacks", helpers[i].what);
    }
}

static bool is_own(const struct steer_hook *own, int own_len, __u32 id)
{
    for (int i = 0; i < own_len; i++) {
        if (own[i].program == id)
            return true;
    }
    return false;
}

int host_programs(int target_fd, enum bpf_attach_type type, __u32 flags, const struct steer_hook *own,
                  int own_len, char *buf, size_t size, int *ret_others)
{
    __u32 ids[PROGRAMS_MAX], count = PROGRAMS_MAX, attach_flags;
    size_t len = 0;

    buf[0] = '\0';
    if (bpf_prog_query(target_fd, type, flags, &attach_flags, ids, &count) < 0)
        return -errno;
    for (__u32 i = 0; i < count && i < PROGRAMS_MAX; i++)
        *ret_others += !is_own(own, own_len, ids[i]);
    for (__u32 i = 0; i < count && i < PROGRAMS_MAX && len + 40 < size; i++) {
        _cleanup_fd_ int fd = bpf_prog_get_fd_by_id(ids[i]);
        struct bpf_prog_info info = {0};
        __u32 info_len = sizeof(info);

        if (fd < 0 || bpf_obj_get_info_by_fd(fd, &info, &info_len) < 0)
            continue;
        len += (size_t)snprintf(buf + len, size - len, "%s%s(%u)", len ? " " : "", info.name, ids[i]);
    }
    return (int)count;
}

void host_check_clock(struct ctl_answer *c)
{
    struct timex t = {0};
    int state = adjtimex(&t);
    bool synchronized = state >= 0 && !(t.status & STA_UNSYNC);

    /* A note, not a failure: many a single machine has no time server, and needs none for its own CA. */
    ctl_finding(c, "clock", true, BRUMA_REASON_NONE, "%s",
                synchronized
                    ? "synchronized"
                    : "not synchronized; peers on other machines may refuse certificates as out of date");
}

void host_check_mtu(struct ctl_answer *c)
{
    char device[DEVICE_NAME_LEN];
    unsigned mtu = device_mtu(device);

    if (!mtu)
        ctl_finding(c, "MTU", true, BRUMA_REASON_NONE,
                    "there is no default route whose device could be looked at");
    else
        ctl_finding(c, "MTU", mtu >= MTU_MIN, BRUMA_REASON_NONE, "%u bytes at %s%s", mtu, device,
                    mtu >= MTU_MIN ? "" : ": less than IPv6 needs");
}

/* ---- before an agent runs ---- */

static bool check_cgroup(const struct agent_settings *settings, struct ctl_answer *c)
{
    struct statfs st;
    bool ok = statfs(settings->cgroup, &st) == 0 && st.f_type == CGROUP2_SUPER_MAGIC;

    return ctl_finding(c, "cgroup", ok, BRUMA_REASON_NONE, "%s %s a cgroup2 directory", settings->cgroup,
                       ok ? "is" : "is not");
}

/* Its folder is made later. */
static void check_pins(const struct agent_settings *settings, struct ctl_answer *c)
{
    _cleanup_free_ char *path = strdup(settings->pin_dir);
    struct statfs st;
    char *slash;
    bool there;

    while (path && statfs(path, &st) < 0 && errno == ENOENT && (slash = strrchr(path, '/')) && slash > path)
        *slash = '\0';
    there = path && statfs(path, &st) == 0 && st.f_type == BPF_FS_MAGIC;
    ctl_finding(c, "pins", true, BRUMA_REASON_NONE, "%s %s", settings->pin_dir,
                there ? "will be in a BPF file system"
                      : "is in no BPF file system; the agent will mount one");
}

/* Others may be there: they run before or after ours, and may rewrite addresses. */
static void check_others(const struct agent_settings *settings, struct ctl_answer *c)
{
    _cleanup_fd_ int fd = open(settings->cgroup, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    char programs[600];

    for (size_t i = 0; fd >= 0 && i < HOST_HOOKS; i++) {
        int others = 0, n = host_programs(fd, host_hooks[i].type, BPF_F_QUERY_EFFECTIVE, NULL, 0, programs,
                                          sizeof(programs), &others);

        if (n < 0)
            ctl_finding(c, "programs on the hook", false, BRUMA_REASON_NONE, "%s: cannot be listed: %s",
                        host_hooks[i].name, strerror(-n));
        else
            ctl_finding(c, "programs on the hook", true, BRUMA_REASON_NONE, "%s, in the order they run: %s%s",
                        host_hooks[i].name, n ? programs : "none", n ? " (do they rewrite addresses?)" : "");
    }
}

/* Without a directory that is named there may be no container runtime here at all. */
static void check_cni(const struct agent_settings *settings, struct ctl_answer *c)
{
    bool named = *settings->cni_conf_dir != '\0';
    struct install_network n = {.directory = named ? settings->cni_conf_dir : CNI_CONF_DIR,
                                .own_name = settings->cni_owned_conf_name};

    if (!named && access(n.directory, F_OK) < 0) {
        ctl_finding(c, "CNI network", true, BRUMA_REASON_NONE, "there is no %s on this machine", n.directory);
        return;
    }
    if (install_network_look(&n) < 0)
        ctl_finding(c, "CNI network", false, n.reason, "%s", n.error);
    else if (!*n.file)
        ctl_finding(c, "CNI network", false, BRUMA_REASON_CNI_CONF_MISSING,
                    "%s has none that can be used%s%s", n.directory, *n.unusable ? ": " : "", n.unusable);
    else
        ctl_finding(c, "CNI network", true, BRUMA_REASON_NONE, "the runtime loads %s", n.file);
    if (*n.file && *n.unusable)
        ctl_finding(c, "CNI network", false, BRUMA_REASON_CNI_CONF_MISSING, "before it, and unusable: %s",
                    n.unusable);
}

static bool is_good(const cJSON *items)
{
    const cJSON *item;

    cJSON_ArrayForEach (item, items) {
        if (!cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(item, "ok")))
            return false;
    }
    return true;
}

bool host_checks_print(const struct agent_settings *settings)
{
    struct ctl_answer c = {.items = cJSON_CreateArray()};
    _cleanup_free_ char *text = NULL;
    bool good;

    host_check_kernel(&c);
    if (check_cgroup(settings, &c))
        check_others(settings, &c);
    check_pins(settings, &c);
    check_cni(settings, &c);
    host_check_mtu(&c);
    host_check_clock(&c);
    good = is_good(c.items);
    text = cJSON_Print(c.items);
    cJSON_Delete(c.items);
    puts(text ? text : "[]");
    return good && text;
}
