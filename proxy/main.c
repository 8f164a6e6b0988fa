/* SPDX-License-Identifier: Apache-2.0 */
#define LOG_SCOPE "main"
#include <errno.h>
#include <linux/capability.h>
#include <malloc.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include "bruma/mesh.h"
#include "lib/descriptors.h"
#include "lib/log.h"
#include "lib/netns.h"
#include "lib/privileges.h"
#include "lib/reasons.h"
#include "lib/tls_policy.h"
#include "proxy/admin/config_dump.h"
#include "proxy/admin/dump_maker.h"
#include "proxy/admin/hostname_dump.h"
#include "proxy/admin/name_dump.h"
#include "proxy/admin/pods_pages.h"
#include "proxy/admin/same_node_dump.h"
#include "proxy/admin/verdict_dump.h"
#include "proxy/connection/worker_post.h"
#include "proxy/connection/worker_thread.h"
#include "proxy/descriptor_limits.h"
#include "proxy/direct/direct.h"
#include "proxy/direct/node_judge.h"
#include "proxy/drain.h"
#include "proxy/flows/flows.h"
#include "proxy/handover/handover.h"
#include "proxy/handover/rendezvous.h"
#include "proxy/identity/credentials.h"
#include "proxy/memory/memory.h"
#include "proxy/metrics_export.h"
#include "proxy/otlp/otlp.h"
#include "proxy/pod_sources.h"
#include "proxy/proxy.h"
#include "proxy/proxy_metrics.h"
#include "proxy/resolve/resolver.h"
#include "proxy/state/rcu.h"
#include "proxy/tls/tls_library.h"
#include "proxy/verdicts/node_verdicts.h"
#include "proxy/xds/local_xds.h"
#include "proxy/xds/mesh_config.h"
#include "proxy/xds/on_demand.h"

#define FIRST_SLOTS 4096 /* of the table of descriptors: 32 KiB of the kernel's memory */

/* ---- the end ---- */

static void proxy_fail(struct proxy *p)
{
    p->exit_status = 1;
    loop_stop(p->loop);
}

static void on_signal(void *data, int signal)
{
    struct proxy *p = data;

    if (p->ending && signal == SIGINT)
        loop_stop(p->loop);
    else
        proxy_drain(p, p->settings.drain_deadline);
}

/* ---- what the parts tell each other ---- */

static void on_state_changed(void *data, bool policies)
{
    struct proxy *p = data;

    pods_state_changed(p);
    direct_pods_changed(p->direct, policies);
    for (unsigned i = 0; i < p->workers_len; i++)
        worker_state_changed(p->workers[i], policies);
}

static void on_identity_changed(void *data, struct identity *identity)
{
    struct proxy *p = data;

    node_judge_identity_changed(p->node_judge, identity);
    for (unsigned i = 0; i < p->workers_len; i++)
        worker_identity_changed(p->workers[i]);
}

/* Who waits for a hostname, or for something of the mesh, looks again. */
static void on_names_changed(void *data)
{
    struct proxy *p = data;

    for (unsigned i = 0; i < p->workers_len; i++)
        worker_check_all(p->workers[i]);
}

static void on_xds_ready(void *data)
{
    struct proxy *p = data;

    log_info("mesh state received\tworkloads=%zu services=%zu policies=%zu", state_workload_count(p->state),
             state_service_count(p->state), state_policy_count(p->state));
    for (unsigned i = 0; i < p->workers_len; i++)
        worker_serve(p->workers[i]);
    pod_sources_serve(p);
    direct_mesh_known(p->direct);
}

/* Certificates go by the wall clock, ours and those of peers. */
static void on_clock_set(void *data, int64_t milliseconds)
{
    struct proxy *p = data;

    log_info("the wall clock was set\tseconds=%lld", (long long)(milliseconds / 1000));
    node_judge_changed(p->node_judge);
    if (p->identities)
        identity_clock_set(p->identities);
    for (unsigned i = 0; i < p->workers_len; i++)
        worker_clock_set(p->workers[i]);
}

static void on_revoked_changed(void *data, struct crl_set *set)
{
    struct proxy *p = data;

    node_judge_changed(p->node_judge);
    for (unsigned i = 0; i < p->workers_len; i++)
        worker_set_revoked(p->workers[i], set);
}

/* ---- admin pages ---- */

static void config_dump(void *data, struct admin *admin, void *token)
{
    struct proxy *p = data;
    const struct config_dump_source source = {
        p->state, p->identities, proxy_settings_table, proxy_settings_count, &p->settings,
    };

    dump_make(p, &source, admin, token);
}

static bool workloads_ready(const struct proxy *p)
{
    if (p->settings.dedicated)
        return own_pod_ready(p->own);
    return p->zds ? zds_client_ready(p->zds)
                  : agent_client_ready(p->agent) || agent_client_in_charge(p->agent);
}

static void pending(void *data, char *buf, size_t size)
{
    struct proxy *p = data;
    const struct {
        const char *name;
        bool ready;
    } parts[] = {
        {"state manager", !p->xds || xds_client_ready(p->xds)},
        {"workload proxy manager", workloads_ready(p)},
        {"revocation lists", !p->revoked || !p->settings.crl_required || crl_watch_usable(p->revoked)},
    };
    size_t len = 0;

    buf[0] = '\0';
    for (size_t i = 0; i < array_size(parts) && len < size; i++) {
        if (!parts[i].ready)
            len += (size_t)snprintf(buf + len, size - len, "%s%s", len ? ", " : "", parts[i].name);
    }
}

static cJSON *verdict(void *data, const char *identity, const struct endpoint *from,
                      const struct endpoint *to)
{
    struct proxy *p = data;
    cJSON *o = verdict_dump(p->state, identity, from, to);

    if (o)
        same_node_dump(p, &from->addr, &to->addr, o);
    return o;
}

static cJSON *name(void *data, const char *pod, const char *asked)
{
    return name_dump(data, pod, asked);
}

static cJSON *hostname(void *data, const char *asked)
{
    struct proxy *p = data;

    return hostname_dump(p->resolver, asked, loop_now(p->loop));
}

static cJSON *direct(void *data)
{
    return direct_dump(((struct proxy *)data)->direct);
}

static void quit(void *data)
{
    proxy_drain(data, ((struct proxy *)data)->settings.drain_deadline);
}

/* Another agent's proxies do not know which of them serves: there the last that has started keeps it. */
static bool owns_socket(void *data)
{
    const struct proxy *p = data;

    return p->agent && agent_client_ready(p->agent) && !p->draining;
}

/* ---- start ---- */

static int open_admin(struct proxy *p, const char *unix_socket)
{
    struct admin_config config = {
        .admin_port = (uint16_t)p->settings.admin_port,
        .metrics_port = (uint16_t)p->settings.metrics_port,
        .ready_port = (uint16_t)p->settings.ready_port,
        .unix_socket = unix_socket,
        .ipv6 = p->settings.ipv6,
        .local_only = !p->settings.cluster,
        .connections = (unsigned)p->settings.page_connections,
        .connections_per_source = (unsigned)p->settings.page_connections_per_source,
        .config_dump = config_dump,
        .metrics = proxy_metrics,
        .large_metrics = proxy_metrics_large,
        .pending = pending,
        .quit = quit,
        .owns_socket = owns_socket,
        .verdict = verdict,
        .name = name,
        .hostname = hostname,
        .direct = direct,
        .hand_over = pod_sources_hand_over,
        .data = p,
    };

    return admin_open(p->loop, &config, &p->admin);
}

static int load_local_xds(struct proxy *p)
{
    const struct proxy_settings *s = &p->settings;
    const struct local_xds local = {
        .path = s->local_xds_path,
        .text = s->local_xds,
        .trust_domain = *s->trust_domain ? s->trust_domain : "cluster.local",
    };
    char error[1200];
    int r = local_xds_load(p->state, &local, error, sizeof(error));

    if (r < 0)
        log_error("%s", error);
    return r;
}

static int open_control_plane(struct proxy *p)
{
    const struct proxy_settings *s = &p->settings;
    struct identity_config identity = {
        .sources = s->identity_sources,
        .files = s->identity_files,
        .spire_socket = s->spire_socket,
        .spire_selectors = s->spire_selectors,
        .pods = pods_each_of,
        .bundles = s->federated_bundles,
        .ca_address = s->ca_address,
        .ca_roots = s->ca_roots,
        .alternate_host = s->ca_alternate_host,
        .auth_token = s->auth_token,
        .token_file = s->token_file,
        .cluster_id = s->cluster_id,
        .ttl_seconds = s->secret_ttl / 1000,
        .for_itself = s->dedicated,
        .patience = s->source_timeout,
        .changed = on_identity_changed,
        .data = p,
    };
    struct xds_config xds = {
        .address = s->xds_address,
        .roots = s->xds_roots,
        .alternate_host = s->xds_alternate_host,
        .auth_token = s->auth_token,
        .token_file = s->token_file,
        .metadata = s->metadata,
        .cluster_id = s->cluster_id,
        .instance_ip = s->instance_ip,
        .pod_name = s->pod_name,
        .pod_namespace = s->pod_namespace,
        .node_name = s->node_name,
        .request_max = s->xds_request_max,
        .settle_milliseconds = s->xds_settle,
        .stall_milliseconds = (unsigned)s->stall_timeout,
        .on_demand = p->on_demand,
        .idle = s->lookup_idle,
        .state = p->state,
        .ready = on_xds_ready,
        .data = p,
    };
    int r = identity_store_new(p->loop, &identity, &p->identities);

    if (r < 0)
        return log_error_errno(r, "cannot set up where certificates come from");
    if (!*s->xds_address) {
        on_xds_ready(p);
        return 0;
    }
    r = xds_client_new(p->loop, &xds, &p->xds);
    return r < 0 ? log_error_errno(r, "cannot set up the xDS client") : 0;
}

/* DNS would be answered from the part of the mesh that happens to be known: as with ztunnel, it is said at
 * the start. */
static int open_on_demand(struct proxy *p)
{
    const char *dns = getenv("ISTIO_META_DNS_CAPTURE");
    const struct on_demand_config config = {
        .loop = p->loop,
        .max = p->settings.max_lookups,
        .absent = p->settings.lookup_absent,
        .fresh = p->settings.lookup_refresh,
        .idle = p->settings.lookup_idle,
        .changed = on_names_changed,
        .data = p,
    };

    if (!p->settings.xds_on_demand || !*p->settings.xds_address)
        return 0;
    if (!dns || strcasecmp(dns, "false") != 0) {
        log_error(
            "XDS_ON_DEMAND: the proxy cannot answer DNS too; set ISTIO_META_DNS_CAPTURE=false, and switch "
            "DNS capture off where pods are captured (AMBIENT_DNS_CAPTURE=false)");
        return -EINVAL;
    }
    if (!*p->settings.node_name) {
        log_error("XDS_ON_DEMAND: NODE_NAME is not set; by it the control plane knows which pods are ours");
        return -EINVAL;
    }
    return on_demand_new(&config, &p->on_demand);
}

static int open_resolver(struct proxy *p)
{
    const struct resolver_config config = {
        .loop = p->loop,
        .query = {.servers = p->settings.name_servers,
                  .ipv6 = p->settings.ipv6,
                  .timeout = p->settings.name_timeout},
        .max_names = p->settings.max_names,
        .max_queries = p->settings.max_name_queries,
        .changed = on_names_changed,
        .data = p,
    };
    int r = resolver_new(&config, &p->resolver);

    if (r == -EINVAL)
        log_error("name-servers: \"%s\" is not a list of ADDRESS or ADDRESS:PORT", p->settings.name_servers);
    else if (r < 0)
        log_error_errno(r, "cannot set up the resolver of hostnames");
    return r;
}

/* brumactl's. Beside another agent's proxy there may be no such directory, and nobody who would ask. */
static bool wants_admin_socket(const struct proxy *p)
{
    return (!*p->settings.zds_socket && !p->settings.dedicated) || access(p->settings.run_dir, W_OK) == 0;
}

static int start(struct proxy *p)
{
    static const int signals[] = {SIGTERM, SIGINT};
    char admin_socket[108];
    unsigned count = p->settings.workers;
    int r;

    p->own_netns_fd = netns_open_own();
    if (p->own_netns_fd < 0)
        return log_error_errno(p->own_netns_fd, "cannot open the proxy's own network namespace");
    if (snprintf(admin_socket, sizeof(admin_socket), "%s/%s", p->settings.run_dir, BRUMA_PROXY_SOCKET) >=
        (int)sizeof(admin_socket))
        return log_error_errno(ENAMETOOLONG, "run directory %s", p->settings.run_dir);
    r = loop_new(&p->loop);
    if (r < 0)
        return log_error_errno(r, "cannot make the event loop");
    r = loop_signals(p->loop, signals, array_size(signals), on_signal, p);
    if (r < 0)
        return log_error_errno(r, "cannot take signals");
    wall_clock_follow(p->loop, &p->wall, on_clock_set, p);
    drain_init(p);
    r = state_new(p->settings.dedicated ? "" : p->settings.node_name, p->settings.network, on_state_changed,
                  p, &p->state);
    if (r < 0)
        return log_error_errno(r, "cannot make the mesh state");
    r = node_verdicts_new(&p->node_verdicts);
    if (r == 0)
        r = node_judge_new(p, &p->node_judge);
    if (r < 0)
        return log_error_errno(r, "no memory");
    r = direct_new(p, &p->direct);
    if (r < 0)
        return log_error_errno(r, "cannot set up direct ways");
    r = handover_new(p, &pod_sources_handover_events, &p->handover);
    if (r < 0)
        return log_error_errno(r, "cannot set up the hand-over of connections");
    memory_init(p);
    state_set_unknown_policy(p->state, p->settings.unknown_policy_denies);
    state_set_trust_domains(p->state, &p->settings.trust_domains);
    r = open_resolver(p);
    if (r == 0)
        r = open_on_demand(p);
    if (r < 0)
        return r;
    r = tls_resumption_init(&p->resumption, p->settings.resumable_sessions, p->settings.resumption_time);
    p->workers = calloc(count, sizeof(*p->workers));
    if (r < 0 || !p->workers)
        return log_error_errno(ENOMEM, "workers");
    for (unsigned i = 0; i < count; i++) {
        r = worker_start(p, i, &p->workers[i]);
        if (r < 0)
            return log_error_errno(r, "cannot start worker %u", i);
        p->workers_len++;
    }
    if (*p->settings.crl_path) {
        r = crl_watch_new(p->loop, p->settings.crl_path, p->settings.crl_required, on_revoked_changed, p,
                          &p->revoked);
        if (r < 0)
            return log_error_errno(r, "cannot follow %s", p->settings.crl_path);
    }
    r = load_local_xds(p);
    if (r == 0)
        r = open_control_plane(p);
    if (r < 0)
        return r;
    r = open_admin(p, wants_admin_socket(p) ? admin_socket : NULL);
    if (r < 0)
        return log_error_errno(r, "cannot open the admin, metrics and readiness servers");
    metrics_export_start(p);
    return pod_sources_open(p);
}

static void stop(struct proxy *p)
{
    metrics_export_end(p);
    direct_drain(p->direct);
    node_judge_free(&p->node_judge);
    agent_client_free(&p->agent);
    zds_client_free(&p->zds);
    own_pod_free(&p->own);
    admin_close(&p->admin);
    xds_client_free(&p->xds);
    crl_watch_free(&p->revoked);
    wall_clock_forget(&p->wall);
    for (unsigned i = 0; i < p->workers_len; i++)
        worker_stop(p->workers[i]);
    tls_resumption_destroy(&p->resumption);
    rendezvous_free(&p->rendezvous);
    handover_free(&p->handover);
    node_verdicts_free(&p->node_verdicts);
    flows_stop(&p->flows);
    direct_free(&p->direct);
    resolver_free(&p->resolver);
    on_demand_free(&p->on_demand);
    dump_stop(p);
    otlp_stop(&p->otlp);
}

static int usage(const char *program)
{
    printf("usage: %s [proxy] [--OPTION VALUE ...]\n\n"
           "Carries the traffic of this node's mesh pods: HBONE, mutual TLS, L4 policy, telemetry.\n\n",
           program);
    proxy_settings_help(stdout);
    return 0;
}

/* Before there are threads and keys. Network namespaces of pods take SYS_ADMIN as long as it lives,
 * transparent sockets NET_ADMIN and NET_RAW. The maps that it writes were given to it, which takes none. */
static int give_up_privileges(const struct proxy_settings *s)
{
    const uint64_t kept = PRIVILEGE(CAP_SYS_ADMIN) | PRIVILEGE(CAP_NET_ADMIN) | PRIVILEGE(CAP_NET_RAW);
    int r = s->core_dumps ? 0 : privileges_hide_memory();

    if (r < 0)
        return log_error_errno(r, "the memory cannot be kept out of core files");
    r = privileges_keep(kept);
    if (r < 0)
        return log_error_errno(r, "capabilities cannot be given up");
    r = s->syscall_filter ? privileges_filter(PRIVILEGES_PROXY) : 0;
    if (r == -ENOSYS)
        log_warn("system calls are not filtered: this kernel or architecture does not support it");
    else if (r < 0)
        return log_error_errno(r, "system calls cannot be filtered");
    return 0;
}

static bool address_is_good(const char *setting, const char *value, bool may_be_empty)
{
    struct server_address ignored;

    if ((may_be_empty && !*value) || server_address_parse(value, &ignored) == 0)
        return true;
    fprintf(stderr, "bruma-proxy: %s: \"%.100s\" is not an address such as https://HOST:PORT%s\n", setting,
            value, *value ? "" : "; without a certificate authority there is no mesh, and none is built in");
    return false;
}

static int refuse(const char *why)
{
    fprintf(stderr, "bruma-proxy: %s\n", why);
    return 1;
}

int main(int argc, char **argv)
{
    static struct proxy p = {.fail = proxy_fail};
    const char *format;
    struct otlp_config otlp = {};
    char error[600];
    int first, r;

    /* The command word of the node proxy contract: "proxy" (the default), "version", "help". */
    if (argc > 1 && (!strcmp(argv[1], "version") || !strcmp(argv[1], "--version"))) {
        printf("bruma-proxy %s\n", BRUMA_VERSION);
        return 0;
    }
    if (argc > 1 && (!strcmp(argv[1], "help") || !strcmp(argv[1], "--help")))
        return usage(argv[0]);
    if (argc > 1 && !strcmp(argv[1], "--settings-markdown")) {
        proxy_settings_markdown(stdout);
        return 0;
    }
    if (argc > 1 && !strcmp(argv[1], "proxy")) {
        argv++;
        argc--;
        if (argc > 1 && !strcmp(argv[1], "--help"))
            return usage("bruma-proxy");
    } else if (argc > 1 && strncmp(argv[1], "--", 2) != 0) {
        fprintf(stderr, "bruma-proxy: unknown command \"%s\"; see --help\n", argv[1]);
        return 1;
    }
    if (proxy_settings_load(MESH_CONFIG_FILE, &p.settings, argc, argv, &first, error, sizeof(error)) < 0 ||
        tls_policy_choose(p.settings.compliance_policy, p.settings.tls12, p.settings.fips_config, error,
                          sizeof(error)) < 0)
        return refuse(error);
    if (*p.settings.zds_socket && *p.settings.agent_socket)
        return refuse("inpod-uds and agent-socket exclude each other: each has an agent that names pods");
    if (*p.settings.local_xds_path && *p.settings.local_xds)
        return refuse("LOCAL_XDS_PATH and LOCAL_XDS exclude each other");
    if (!address_is_good("XDS_ADDRESS", p.settings.xds_address, true) ||
        !address_is_good("CA_ADDRESS", p.settings.ca_address,
                         !source_choice_has(&p.settings.identity_sources, SOURCE_CA)))
        return 1;
    if (otlp_config_make(&p.settings.otlp, &otlp, error, sizeof(error)) < 0)
        return refuse(error);
    tls_library_init();
    format = getenv("LOG_FORMAT");
    if (format && !strcmp(format, "json"))
        p.settings.log_json = true;
    log_setup(STDOUT_FILENO, p.settings.log_json);
    if (log_set_filter(p.settings.log_filter) < 0) {
        fprintf(stderr, "bruma-proxy: log: \"%s\" is not a list of levels\n", p.settings.log_filter);
        return 1;
    }
    signal(SIGPIPE, SIG_IGN);
    descriptors_raise_limit();
    descriptors_make_room(FIRST_SLOTS);
    descriptor_limits_derive(&p.settings);
    /* Buffers come and go in sizes just above malloc's first mmap threshold: mapping each would cost a fault
     * a page. */
    mallopt(M_MMAP_THRESHOLD, 4 * 1024 * 1024);
    mallopt(M_ARENA_MAX, 2);
    list_init(&p.pods);
    atomic_init(&p.same_node, SAME_NODE_KERNEL);
    p.exempt_map_fd = p.deliveries_map_fd = -1;
    reader_register();
    reader_offline(); /* the only writer: it waits for readers and reads without their protection */
    if (give_up_privileges(&p.settings) < 0 || otlp_start(&otlp, &p.otlp) < 0 || start(&p) < 0)
        return 1;
    log_info("started\tversion=%s workers=%u node=\"%s\" compliance=\"%s\"", BRUMA_VERSION, p.workers_len,
             p.settings.node_name, tls_policy_text());
    r = loop_run(p.loop);
    if (r < 0) {
        log_error_errno(r, "the control thread cannot go on");
        p.exit_status = 1;
    }
    stop(&p);
    log_info("ended");
    return p.exit_status;
}
