/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/agent/agent_doubles.h"

#include "agent/steer/direct.h"
#include "agent/steer/exclusions.h"
#include "agent/steer/node.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

char steps[4096];
const char *failing_step;
int findings_to_report;
bool link_attached, namespace_is_ambient = true, mesh_is_ready = true, announced_enrolled;
int announced_pods, registered_probes_len;
struct steer_probe registered_probes[16];
const char *service_account = "default";
int foreign_result, foreign_pid, marked_connections, exempt_cgroups_len;
bool foreign_live = true;
struct steer_proxy_cgroup exempt_cgroups[8];

void steps_clear(void)
{
    steps[0] = '\0';
}

static int step(const char *name, struct steer_error *error)
{
    size_t len = strlen(steps);

    snprintf(steps + len, sizeof(steps) - len, "%s%s", len ? " " : "", name);
    if (!failing_step || strcmp(failing_step, name))
        return 0;
    if (error) {
        error->reason = BRUMA_REASON_ROUTE_SETUP_FAILED;
        snprintf(error->text, sizeof(error->text), "%s was made to fail", name);
    }
    return -EIO;
}

int steer_listeners_open(int netns_fd, int listeners[BRUMA_LISTENER_COUNT], struct steer_error *error)
{
    bool opened = false;

    for (int i = 0; i < BRUMA_LISTENER_COUNT; i++)
        opened |= listeners[i] < 0;
    if (opened && step("listen", error) < 0)
        return -EIO;
    for (int i = 0; i < BRUMA_LISTENER_COUNT; i++) {
        if (listeners[i] < 0)
            listeners[i] = open("/dev/null", O_RDONLY | O_CLOEXEC);
    }
    return 0;
}

int steer_pod_prepare(struct steer *steer, const struct steer_pod *pod, int *ret_program_fd,
                      struct steer_error *error)
{
    int r = step("prepare", error);

    if (r == 0)
        *ret_program_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    return r;
}

int steer_foreign_listeners(struct steer_process *process, int netns_fd, int ret[BRUMA_LISTENER_COUNT],
                            struct steer_error *error)
{
    foreign_pid = process->pid;
    if (foreign_result < 0) {
        error->reason = BRUMA_REASON_PROXY_LISTENERS_MISSING;
        snprintf(error->text, sizeof(error->text), "there are none");
        return foreign_result;
    }
    for (int i = 0; i < BRUMA_LISTENER_COUNT; i++)
        ret[i] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    return 0;
}

int steer_foreign_listeners_live(int netns_fd, const uint64_t cookies[BRUMA_LISTENER_COUNT])
{
    return foreign_live;
}

int steer_marked_connections(int netns_fd)
{
    return marked_connections;
}

int steer_pod_set_listeners(struct steer *steer, const struct steer_pod *pod, struct steer_error *error)
{
    return step("set_listeners", error);
}

int steer_proxy_cgroup_add(struct steer *steer, uint64_t id, uint32_t pid)
{
    exempt_cgroups[exempt_cgroups_len++] = (struct steer_proxy_cgroup){.id = id, .pid = pid};
    return 0;
}

int steer_proxy_cgroup_remove(struct steer *steer, uint64_t id)
{
    for (int i = 0; i < exempt_cgroups_len; i++) {
        if (exempt_cgroups[i].id == id)
            exempt_cgroups[i--] = exempt_cgroups[--exempt_cgroups_len];
    }
    return 0;
}

int steer_proxy_cgroups(const struct steer *steer, struct steer_proxy_cgroup **ret)
{
    *ret = malloc(sizeof(exempt_cgroups));
    memcpy(*ret, exempt_cgroups, sizeof(exempt_cgroups));
    return exempt_cgroups_len;
}

int steer_pod_attach(struct steer *steer, const struct steer_pod *pod, struct steer_error *error)
{
    return step("attach", error);
}

int steer_pod_commit(struct steer *steer, const struct steer_pod *pod, struct steer_error *error)
{
    return step("commit", error);
}

int steer_pod_bind_live(struct steer *steer, int netns_fd)
{
    return -EOPNOTSUPP;
}

int steer_pod_link_path(const struct steer *steer, uint64_t cookie, char *buf, size_t size)
{
    return snprintf(buf, size, "/nowhere/pods/%lu/link", (unsigned long)cookie) < (int)size ? 0
                                                                                            : -ENAMETOOLONG;
}

int steer_pod_stop_outbound(struct steer *steer, uint64_t cookie, struct steer_error *error)
{
    return step("stop_outbound", error);
}

static bool dns_started;

bool steer_exclusions_active(struct steer *steer, uint64_t cookie)
{
    return false;
}

int steer_exclusions_set(struct steer *steer, uint64_t cookie, const struct steer_exclusions *exclusions,
                         struct steer_error *error)
{
    return 0;
}

int steer_dns_open(int netns_fd, int *ret_fd, struct steer_error *error)
{
    *ret_fd = dup(netns_fd);
    return *ret_fd < 0 ? -errno : 0;
}

int steer_dns_start(struct steer *steer, const struct steer_pod *pod, int fd, struct steer_error *error)
{
    dns_started = true;
    return step("dns_start", error);
}

int steer_dns_stop(struct steer *steer, const struct steer_pod *pod, struct steer_error *error)
{
    dns_started = false;
    return step("dns_stop", error);
}

int steer_dns_verify(struct steer *steer, const struct steer_pod *pod, int fd)
{
    return dns_started;
}

bool steer_dns_started(struct steer *steer, uint64_t cookie)
{
    return dns_started;
}

int steer_pod_detach(struct steer *steer, uint64_t cookie, struct steer_error *error)
{
    return step("detach", error);
}

int steer_pod_clean(struct steer *steer, uint64_t cookie, int netns_fd, struct steer_error *error)
{
    return step(netns_fd < 0 ? "clean_dead" : "clean", error);
}

bool steer_pod_attached(struct steer *steer, uint64_t cookie, int netns_fd)
{
    return link_attached;
}

int steer_pod_forwards(int netns_fd, const char *own_device, char *why, size_t size)
{
    (void)netns_fd;
    (void)own_device;
    snprintf(why, size, "%s", "");
    return 0;
}

int steer_pod_verify(struct steer *steer, const struct steer_pod *pod, struct steer_findings *ret)
{
    memset(ret, 0, sizeof(*ret));
    if (findings_to_report > 0) {
        findings_to_report--;
        ret->reasons[ret->len++] = BRUMA_REASON_RULE_MISSING;
    }
    return step("verify", NULL);
}

void steer_quick_check_init(struct steer_quick_check *check)
{
    memset(check, 0, sizeof(*check));
}

void steer_quick_check_close(struct steer_quick_check *check)
{
    steer_quick_check_init(check);
}

int steer_quick_check_arm(struct steer *steer, const struct steer_pod *pod, struct steer_quick_check *check)
{
    return -EOPNOTSUPP;
}

bool steer_quick_check_same(struct steer *steer, const struct steer_pod *pod, struct steer_quick_check *check,
                            bool listeners)
{
    return false;
}

int steer_pod_repair(struct steer *steer, const struct steer_pod *pod, const struct steer_findings *findings,
                     struct steer_error *error)
{
    return step("repair", error);
}

int steer_guard_close(struct steer *steer, const char *cgroup, uint64_t until, struct steer_error *error)
{
    return step("close_guard", error);
}

uint64_t steer_guard_closed_until(const struct steer *steer)
{
    return 0;
}

void steer_guard_lapse(struct steer *steer)
{
    (void)steer;
}

void steer_guard_open(struct steer *steer)
{
    step("open_guard", NULL);
}

bool steer_guard_holds_inbound(const struct steer *steer)
{
    return true;
}

int steer_sandbox_pass(struct steer *steer, uint64_t cookie, enum bruma_sandbox_state state, const char *pod)
{
    return step("pass", NULL);
}

int steer_sandbox_forget(struct steer *steer, uint64_t cookie)
{
    return step("forget", NULL);
}

bool steer_sandbox_decided(struct steer *steer, uint64_t cookie)
{
    return true;
}

int steer_sandboxes(struct steer *steer, uint64_t **ret)
{
    *ret = NULL;
    return 0;
}

int steer_probe_cgroup(struct steer *steer, const char *cgroup, struct steer_error *error)
{
    return step("probe_cgroup", error);
}

int steer_direct_sweep(struct steer *steer, int netns_fd, uint64_t cookie)
{
    (void)steer, (void)netns_fd, (void)cookie;
    return 0;
}

bool steer_direct_able(const struct steer *steer)
{
    (void)steer;
    return false;
}

int steer_cgroup_verify(struct steer *steer)
{
    return 0;
}

int steer_cgroup_repair(struct steer *steer, struct steer_error *error)
{
    return step("repair_cgroup", error);
}

int steer_open(const struct steer_config *config, struct steer **ret, struct steer_error *error)
{
    return step("open", error);
}

void steer_close(struct steer **steer)
{
}

int steer_uninstall(const char *pin_dir, struct steer_error *error)
{
    return step("uninstall", error);
}

int steer_pods_pinned(const struct steer *steer, uint64_t **ret)
{
    *ret = NULL;
    return 0;
}

int steer_pod_pinned_listeners(const struct steer *steer, uint64_t cookie, uint64_t ret[BRUMA_LISTENER_COUNT])
{
    return -ENOENT;
}

bool steer_pod_netns_dead(const struct steer *steer, uint64_t cookie)
{
    return false;
}

int steer_pod_entry(struct steer *steer, uint64_t cookie, struct bruma_pod *ret)
{
    return -ENOENT;
}

int steer_pod_counters(struct steer *steer, uint64_t cookie, struct bruma_pod_counters *ret)
{
    return -ENOENT;
}

int steer_failure_count(struct steer *steer, enum bruma_reason reason, struct bruma_failure_count *ret)
{
    return -ENOENT;
}

int mesh_new(struct loop *loop, const struct agent_settings *settings, mesh_changed_fn changed, void *data,
             struct mesh **ret)
{
    return 0;
}

void mesh_free(struct mesh **mesh)
{
}

const char *mesh_error(const struct mesh *mesh)
{
    return "";
}

uint64_t mesh_stalls(const struct mesh *mesh)
{
    return 0;
}

uint64_t mesh_turned_away(const struct mesh *mesh)
{
    return 0;
}

bool mesh_ready(const struct mesh *mesh)
{
    return mesh_is_ready;
}

void mesh_each_namespace(const struct mesh *mesh,
                         void (*fn)(void *data, const char *name, bool ambient, bool has_ambient_pods),
                         void *data)
{
}

bool mesh_namespace_ambient(const struct mesh *mesh, const char *namespace)
{
    return namespace_is_ambient;
}

enum mesh_mode mesh_pod_mode(const struct mesh *mesh, const char *namespace, const char *pod)
{
    return !strcmp(pod, "opted-out")  ? MESH_MODE_NONE
           : !strcmp(pod, "opted-in") ? MESH_MODE_AMBIENT
                                      : MESH_MODE_UNSET;
}

enum outbound_policy mesh_outbound_policy(const struct mesh *mesh, const char *namespace, const char *pod,
                                          const char **ret_why)
{
    *ret_why = "";
    return OUTBOUND_UNSAID;
}

struct direct_switches mesh_direct(const struct mesh *mesh, const char *namespace, const char *pod)
{
    return (struct direct_switches){0};
}

int mesh_service_account(const struct mesh *mesh, const char *namespace, const char *pod, char *buf,
                         size_t size)
{
    snprintf(buf, size, "%s", service_account);
    return 0;
}

const char *mesh_trust_domain(const struct mesh *mesh)
{
    return "cluster.local";
}

int mesh_set_local_pod(struct mesh *mesh, const struct mesh_local_pod *pod)
{
    announced_enrolled = pod->enrolled;
    announced_pods = 1;
    return 0;
}

int mesh_expect_pod(struct mesh *mesh, const struct mesh_local_pod *pod)
{
    return 0;
}

void mesh_remove_local_pod(struct mesh *mesh, const char *uid)
{
    announced_enrolled = false;
    announced_pods = 0;
}

void mesh_report(const struct mesh *mesh, cJSON *object)
{
}

void mesh_uninstall(const struct agent_settings *settings)
{
}

int steer_probe_add(struct steer *steer, uint64_t cookie, const struct endpoint *target)
{
    (void)steer;
    for (int i = 0; i < registered_probes_len; i++) {
        if (addr_equal(&registered_probes[i].target.addr, &target->addr) &&
            registered_probes[i].target.port == target->port) {
            registered_probes[i].cookie = cookie;
            return 0;
        }
    }
    registered_probes[registered_probes_len++] = (struct steer_probe){.cookie = cookie, .target = *target};
    return 0;
}

int steer_probe_remove(struct steer *steer, const struct endpoint *target)
{
    (void)steer;
    for (int i = 0; i < registered_probes_len; i++) {
        if (addr_equal(&registered_probes[i].target.addr, &target->addr) &&
            registered_probes[i].target.port == target->port)
            registered_probes[i--] = registered_probes[--registered_probes_len];
    }
    return 0;
}

int steer_probes(const struct steer *steer, struct steer_probe **ret)
{
    (void)steer;
    *ret = calloc((size_t)registered_probes_len + 1, sizeof(**ret));
    memcpy(*ret, registered_probes, (size_t)registered_probes_len * sizeof(**ret));
    return registered_probes_len;
}

enum steer_node_refusal steer_node_open(struct steer *steer, struct steer_error *error)
{
    return STEER_NODE_OFF;
}

void steer_node_disable(struct steer *steer)
{
}

bool steer_node_hooks_refused(const struct steer *steer)
{
    return false;
}

enum steer_node_refusal steer_node_start(struct steer *steer, const struct steer_pod *pod,
                                         struct steer_error *error)
{
    return STEER_NODE_NONE;
}

void steer_node_stop(struct steer *steer, uint64_t cookie)
{
}

void steer_node_forbid(struct steer *steer, uint64_t cookie)
{
}

bool steer_node_lives(const struct steer *steer)
{
    return false;
}

const char *steer_node_what(enum steer_node_refusal refusal)
{
    return "";
}

const char *steer_node_advice(enum steer_node_refusal refusal)
{
    return "";
}
