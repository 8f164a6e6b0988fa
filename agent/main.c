/* SPDX-License-Identifier: Apache-2.0 */
/* bruma-agent: decides which pods of this node are in the mesh, and keeps them there. Traffic does not need
 * it. */
#include <errno.h>
#include <limits.h>
#include <linux/capability.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "agent/agent.h"
#include "agent/api/cni_server.h"
#include "agent/api/ctl_server.h"
#include "agent/api/host_checks.h"
#include "agent/api/metrics.h"
#include "agent/api/notify.h"
#include "agent/control_plane/mesh_source.h"
#include "agent/enroll/adopt.h"
#include "agent/enroll/enroll.h"
#include "agent/enroll/forwards.h"
#include "agent/enroll/guard.h"
#include "agent/enroll/same_node.h"
#include "agent/enroll/source.h"
#include "agent/enroll/watchdog.h"
#include "agent/install/install.h"
#include "agent/install/uninstall.h"
#include "agent/kubernetes/kube_daemonset.h"
#include "agent/kubernetes/kube_source.h"
#include "agent/kubernetes/kubelet.h"
#include "agent/kubernetes/uninstall_cluster.h"
#include "agent/kubernetes/unmark_pods.h"
#include "agent/local/server.h"
#include "agent/proxies/proxy_server.h"
#include "agent/proxies/zds_server.h"
#include "agent/steer/direct.h"
#include "bruma/mesh.h"
#include "lib/netns.h"
#include "lib/privileges.h"
#include "lib/reasons.h"
#include "lib/tls_policy.h"

#define LOG_SCOPE "agent"
#include "lib/log.h"

#define DESCRIPTORS_A_POD 10

/* A bruma-proxy where stock ones serve. */
static void on_unwanted_proxy(struct local_connection *connection, const cJSON *message, int *fds,
                              size_t fds_len)
{
    (void)message, (void)fds, (void)fds_len;
    log_warn("a bruma-proxy is rejected: pods are served over the workload discovery socket\tpid=%d",
             (int)connection_pid(connection));
    connection_send_error(connection, BRUMA_REASON_PROXY_NOT_CONNECTED,
                          "pods of this node are served by another proxy (--zds-socket of the agent)");
    connection_close(connection);
}

static const struct server_role unwanted_proxy_role = {.name = "proxy", .message = on_unwanted_proxy};

static const struct server_role *route(void *data, const char *op, void **ret_data)
{
    struct agent *agent = data;
    const struct server_role *role = &ctl_role;

    *ret_data = agent;
    if (!strncmp(op, "cni-", 4)) {
        role = &cni_role;
        *ret_data = cni_accept(agent);
    } else if (!strcmp(op, "proxy-hello") && proxies_open_listeners(agent->proxies)) {
        role = &unwanted_proxy_role;
    } else if (!strcmp(op, "proxy-hello")) {
        role = &proxy_server_role;
        *ret_data = proxy_server_accept(agent->proxies);
    }
    return *ret_data ? role : NULL;
}

static struct pod *on_offer(void *data, const struct offered_pod *offer)
{
    return adopt_offered(data, offer);
}

static void on_offers_end(void *data)
{
    struct agent *agent = data;
    struct pod *pod;

    list_for_each (pod, &agent->pods.list, node)
        adopt_check(agent, pod);
}

static int on_listeners_opened(void *data, struct pod *pod, const int listeners[BRUMA_LISTENER_COUNT],
                               struct steer_error *error)
{
    return enroll_listeners_opened(data, pod, listeners, error);
}

static void on_answered(void *data, struct pod *pod, enum bruma_reason reason, const char *error)
{
    enroll_answered(data, pod, reason, error);
}

static void on_listener_closed(void *data, struct pod *pod)
{
    watchdog_look(data, pod);
}

static void on_drained(void *data, struct pod *pod)
{
    enroll_drained(data, pod);
}

static void on_proxy_serves(void *data)
{
    enroll_reconcile_all(data);
}

static void on_proxy_gone(void *data)
{
    enroll_proxy_gone(data);
}

static void on_pod_changed(void *data)
{
    struct agent *agent = data;

    decisions_touch(&agent->decisions);
}

static void on_source_changed(void *data)
{
    on_pod_changed(data);
    enroll_reconcile_all(data);
}

static bool plugin_in_place(const struct agent *agent)
{
    return install_in_place(agent->install);
}

static void on_entry_missing(void *data)
{
    struct agent *agent = data;

    guard_close(agent->guard, "bruma-cni was not in the network that the runtime loads");
}

static void on_signal(void *data, int sig)
{
    struct agent *agent = data;

    log_info("the agent ends; what is pinned stays in force\tsignal=%s", sigabbrev_np(sig));
    (void)notify("STOPPING=1");
    loop_stop(agent->loop);
}

/* Each pod in the mesh holds ten descriptors: its namespace, three listeners, a netlink socket, and five for
 * quick checks. */
static void raise_descriptor_limit(void)
{
    const rlim_t wanted = DESCRIPTORS_A_POD * BRUMA_MAX_PODS * 4 / 3 + 1024;
    struct rlimit now, more = {.rlim_cur = wanted, .rlim_max = wanted};

    if (getrlimit(RLIMIT_NOFILE, &now) < 0 || now.rlim_cur >= wanted)
        return;
    if (now.rlim_max > wanted)
        more.rlim_max = now.rlim_max;
    if (setrlimit(RLIMIT_NOFILE, &more) == 0)
        return;
    /* More than the hard limit is not for everybody. */
    now.rlim_cur = now.rlim_max;
    if (setrlimit(RLIMIT_NOFILE, &now) < 0)
        log_warn_errno(errno, "the limit of file descriptors cannot be raised");
    else
        log_info("file descriptors are limited\tlimit=%llu pods-in-the-mesh=%llu",
                 (unsigned long long)now.rlim_cur, (unsigned long long)now.rlim_cur / DESCRIPTORS_A_POD);
}

static int own_cookie(uint64_t *ret)
{
    _cleanup_fd_ int fd = netns_open_own();

    return fd < 0 ? fd : netns_cookie(fd, ret);
}

static int open_steering(struct agent *agent)
{
    const struct steer_config sc = {
        .pin_dir = agent->settings->pin_dir,
        .cgroup = agent->settings->cgroup,
        .probe_cgroup = kubelet_cgroup(agent->kubelet),
        .max_direct_connections = agent->settings->max_direct_connections,
    };
    struct steer_error error = {0};
    int r = steer_open(&sc, &agent->steer, &error);

    if (r < 0)
        log_error("steering cannot be set up\treason=%s error=\"%s\" check=\"%s\"", reason_name(error.reason),
                  error.text, reason_check(error.reason));
    return r;
}

static int serve_proxies(struct agent *agent, const struct proxies_events *events)
{
    struct proxy_maps maps = {.proxy_sockets = steer_proxy_sockets_fd(agent->steer),
                              .deliveries = steer_deliveries_fd(agent->steer),
                              .direct_able = steer_direct_able(agent->steer)};

    steer_direct_fds(agent->steer, maps.direct);
    steer_node_fds(agent->steer, maps.node);
    if (agent->node_refusal)
        maps.node[0] = -1;
    return proxy_server_new(agent->loop, agent->settings, &agent->pods, &maps, events, &agent->proxies);
}

static int open_parts(struct agent *agent)
{
    const struct proxies_events events = {.offered = on_offer,
                                          .offers_end = on_offers_end,
                                          .listeners_opened = on_listeners_opened,
                                          .answered = on_answered,
                                          .drained = on_drained,
                                          .listener_closed = on_listener_closed,
                                          .serves = on_proxy_serves,
                                          .gone = on_proxy_gone,
                                          .data = agent};
    static const int signals[] = {SIGTERM, SIGINT};
    char path[512];
    bool guard_due;
    int r;

    snprintf(path, sizeof(path), "%s/%s", agent->settings->run_dir, BRUMA_AGENT_SOCKET);
    if (server_answers(path)) {
        log_error("bruma-agent is running already\trun-dir=%s", agent->settings->run_dir);
        return -EBUSY;
    }
    r = loop_new(&agent->loop);
    if (r < 0)
        return log_error_errno(r, "no event loop");
    r = loop_signals(agent->loop, signals, 2, on_signal, agent);
    if (r < 0)
        return log_error_errno(r, "signals cannot be handled");
    r = store_open(agent->settings->run_dir, NULL, &agent->store);
    if (r < 0)
        return log_error_errno(r, "the run directory cannot be used\trun-dir=%s", agent->settings->run_dir);
    r = own_cookie(&agent->own_cookie);
    if (r < 0)
        return log_error_errno(r, "the kernel does not report cookies of network namespaces");
    guard_due = guard_is_due(agent->settings, install_configured(agent->settings));
    r = kubelet_open(agent, &agent->kubelet);
    if (r < 0)
        return log_error_errno(r, "no memory for the kubelet");
    r = open_steering(agent);
    if (r < 0)
        return r;
    same_node_open(agent);
    kubelet_follow(agent->kubelet);
    /* Before anything that takes time. */
    r = guard_start(agent, guard_due, plugin_in_place, &agent->guard);
    if (r < 0)
        return log_error_errno(r, "no memory for the guard");
    proxy_cgroups_open(&agent->proxy_cgroups, agent->loop, agent->steer, agent->settings->cgroup);
    if (*agent->settings->zds_socket && agent->settings->dns_capture)
        log_info("DNS queries of pods are not captured: a stock ztunnel serves the pods");
    if (*agent->settings->zds_socket)
        r = zds_server_new(agent->loop, agent->settings, &agent->pods, &agent->proxy_cgroups, &events,
                           &agent->proxies);
    else
        r = serve_proxies(agent, &events);
    if (r < 0)
        return log_error_errno(r, "proxies cannot be served\tsocket=\"%s\"", agent->settings->zds_socket);
    if (kube_source_configured(agent->settings))
        r = kube_source_open(agent, &agent->source);
    else
        r = mesh_source_open(agent->loop, agent->settings, on_source_changed, agent, &agent->source);
    if (r < 0)
        return r;
    if (!kube_source_configured(agent->settings)) {
        file_decisions_open(agent);
        agent->store.changed = on_pod_changed;
        agent->store.data = agent;
    }
    r = adopt_all(agent);
    if (r < 0)
        return r;
    enroll_reconcile_all(agent);
    watchdog_start(agent);
    forwards_start(agent);
    r = server_open(agent->loop, path, route, agent, &agent->server);
    if (r < 0)
        return log_error_errno(r, "the socket cannot be opened\tpath=%s", path);
    r = metrics_open(agent, &agent->metrics);
    if (r < 0)
        return r;
    /* Last: from here on the runtime calls the plugin, which wants an agent that answers. */
    if (!install_configured(agent->settings))
        return 0;
    return install_open(agent->loop, agent->settings, on_entry_missing, agent, &agent->install);
}

static void close_parts(struct agent *agent)
{
    metrics_close(&agent->metrics);
    install_close(&agent->install);
    if (agent->server)
        server_close(&agent->server);
    watchdog_stop(agent);
    forwards_stop(agent);
    guard_stop(&agent->guard);
    kubelet_close(&agent->kubelet);
    proxies_free(&agent->proxies);
    if (agent->proxy_cgroups.loop)
        proxy_cgroups_close(&agent->proxy_cgroups);
    enroll_pods_free(&agent->pods);
    decisions_close(&agent->decisions);
    source_close(&agent->source);
    if (agent->steer)
        steer_close(&agent->steer);
    loop_free(&agent->loop);
}

/* What it uses: docs/security.md says for what. Before there are threads. */
static int give_up_capabilities(const struct agent_settings *settings)
{
    const uint64_t kept = PRIVILEGE(CAP_SYS_ADMIN) | PRIVILEGE(CAP_NET_ADMIN) | PRIVILEGE(CAP_NET_RAW) |
                          PRIVILEGE(CAP_BPF) | PRIVILEGE(CAP_PERFMON) | PRIVILEGE(CAP_SYS_PTRACE) |
                          PRIVILEGE(CAP_DAC_READ_SEARCH) | PRIVILEGE(CAP_DAC_OVERRIDE) |
                          PRIVILEGE(CAP_SYS_RESOURCE) | PRIVILEGE(CAP_CHOWN);
    int r = settings->core_dumps ? 0 : privileges_hide_memory();

    if (r < 0)
        return log_error_errno(r, "the memory cannot be kept out of core files");
    r = privileges_keep(kept);
    return r < 0 ? log_error_errno(r, "capabilities cannot be given up") : 0;
}

/* Once what only the start needs is done: it mounts a BPF file system where there is none. */
static int filter_calls(const struct agent_settings *settings)
{
    int r = settings->syscall_filter ? privileges_filter(PRIVILEGES_AGENT) : 0;

    if (r == -ENOSYS)
        log_warn("system calls are not filtered: this kernel or architecture does not support it");
    return r < 0 && r != -ENOSYS ? log_error_errno(r, "system calls cannot be filtered") : 0;
}

static int run(const struct agent_settings *settings)
{
    struct agent agent = {.settings = settings, .mounts_fd = -1, .started_at = (int64_t)time(NULL)};
    int r;

    pods_init(&agent.pods);
    loop_timer_init(&agent.tick, NULL);
    loop_timer_init(&agent.searching, NULL);
    loop_timer_init(&agent.verify, NULL);
    loop_timer_init(&agent.forwards, NULL);
    r = give_up_capabilities(settings);
    if (r == 0)
        r = open_parts(&agent);
    if (r == 0)
        r = filter_calls(settings);
    if (r == 0) {
        log_info("ready\tversion=%s node=%s pin-dir=%s cgroup=%s", BRUMA_VERSION, settings->node,
                 settings->pin_dir, settings->cgroup);
        if (notify("READY=1") < 0)
            log_warn("the service manager cannot be notified that the agent is ready");
        r = loop_run(agent.loop);
        if (r < 0)
            log_error_errno(r, "the agent cannot go on");
    }
    close_parts(&agent);
    if (r == 0 && kube_source_configured(settings) && kube_node_leaves(settings))
        r = uninstall(settings, unmark_pods);
    return r;
}

/* Of a service that runs before the kubelet. */
static int close_guard(const struct agent_settings *settings)
{
    struct agent agent = {.settings = settings, .mounts_fd = -1, .started_at = (int64_t)time(NULL)};
    int r = loop_new(&agent.loop);

    pods_init(&agent.pods);
    if (r == 0)
        r = own_cookie(&agent.own_cookie);
    if (r == 0)
        r = open_steering(&agent);
    if (r == 0)
        r = guard_close_before_boot(&agent);
    if (agent.steer)
        steer_close(&agent.steer);
    loop_free(&agent.loop);
    return r;
}

static void help(void)
{
    puts("Usage: bruma-agent [--name VALUE]...\n"
         "       bruma-agent --uninstall [--name VALUE]...   take all pods out of the mesh, remove every "
         "trace\n"
         "       bruma-agent --retire [--name VALUE]...      mark and delete the agents' DaemonSet; each "
         "uninstalls its node\n"
         "       bruma-agent --close-guard [--name VALUE]... before the kubelet starts: keep pods off the "
         "network "
         "until an agent has decided about them\n"
         "       bruma-agent --check [--name VALUE]...       before an agent runs here: print as JSON "
         "whether the "
         "machine has what it needs\n"
         "       bruma-agent --version | --help | --settings-markdown\n\n"
         "The node agent of Bruma. Settings, also taken from the environment:\n");
    agent_settings_help(stdout);
}

/* Takes the word out of argv. */
static bool take_option(int *argc, char **argv, const char *option)
{
    for (int i = 1; i < *argc; i++) {
        if (strcmp(argv[i], option))
            continue;
        memmove(&argv[i], &argv[i + 1], sizeof(*argv) * (size_t)(*argc - i));
        (*argc)--;
        return true;
    }
    return false;
}

int main(int argc, char **argv)
{
    struct agent_settings settings;
    char error[600], host[HOST_NAME_MAX + 1];
    bool remove, retire, guard, check;
    int first, r;

    if (take_option(&argc, argv, "--help")) {
        help();
        return 0;
    }
    if (take_option(&argc, argv, "--settings-markdown")) {
        agent_settings_markdown(stdout);
        return 0;
    }
    if (take_option(&argc, argv, "--version")) {
        puts("bruma-agent " BRUMA_VERSION);
        return 0;
    }
    remove = take_option(&argc, argv, "--uninstall");
    retire = take_option(&argc, argv, "--retire");
    guard = take_option(&argc, argv, "--close-guard");
    check = take_option(&argc, argv, "--check");
    r = agent_settings_load(&settings, argc, argv, &first, error, sizeof(error));
    if (r == 0 && first < argc) {
        snprintf(error, sizeof(error), "unexpected argument %.100s; see --help", argv[first]);
        r = -EINVAL;
    }
    if (r == 0 && log_set_filter(settings.log_level) < 0) {
        snprintf(error, sizeof(error), "log-level: cannot use %.100s", settings.log_level);
        r = -EINVAL;
    }
    if (r == 0 && tls_policy_choose(settings.compliance_policy, settings.tls12, settings.fips_config, error,
                                    sizeof(error)) < 0) {
        /* A node must come out of the mesh, and be kept from going around it, in any case. */
        r = remove || retire || guard ? 0 : -EINVAL;
        if (r == 0)
            fprintf(stderr, "bruma-agent: %s; goes on all the same\n", error);
    }
    if (r < 0) {
        fprintf(stderr, "bruma-agent: %s\n", error);
        return 2;
    }
    log_setup(STDERR_FILENO, settings.log_json);
    if (!settings.node || !*settings.node) {
        if (gethostname(host, sizeof(host)) < 0)
            strcpy(host, "localhost");
        host[sizeof(host) - 1] = '\0';
        settings.node = host;
    }
    signal(SIGPIPE, SIG_IGN);
    if (check)
        return host_checks_print(&settings) ? 0 : 1;
    if (retire)
        return uninstall_cluster(&settings) < 0 ? 1 : 0;
    if (guard)
        return close_guard(&settings) < 0 ? 1 : 0;
    raise_descriptor_limit();
    r = remove ? uninstall(&settings, kube_source_configured(&settings) ? unmark_pods : NULL)
               : run(&settings);
    return r < 0 ? 1 : 0;
}
