/* SPDX-License-Identifier: Apache-2.0 */
/* Settings of bruma-proxy. Environment names are those of the node proxy contract (section 10) where it has
 * one. */
#ifndef PROXY_PROXY_SETTINGS_H
#define PROXY_PROXY_SETTINGS_H

#include <stdbool.h>
#include <stdio.h>

#include <cjson/cJSON.h>

#include "lib/direct_ways.h"
#include "lib/outbound_policy.h"
#include "lib/settings.h"
#include "lib/trust_domains.h"
#include "proxy/identity/source_choice.h"
#include "proxy/otlp/otlp_config.h"

#define PROXY_RETRIES_MAX 8 /* endpoints more than the first that a connection tries: outbound_retries */

struct proxy_settings {
    bool cluster; /* the surroundings say so: KUBERNETES_SERVICE_HOST */
    const char *run_dir;
    const char *agent_socket;     /* "" : RUN_DIR/agent.sock */
    const char *zds_socket;       /* "" : bruma-agent names the pods */
    const char *hand_over_socket; /* "": proxies do not meet */
    bool port_reuse;
    unsigned long packet_mark;
    const char *node_name, *network, *cluster_id, *instance_ip, *pod_name, *pod_namespace;
    /* own_settings.h makes of these what follows them */
    bool socks;
    const char *proxy_mode, *workload_info, *service_account, *trust_domain;
    bool dedicated; /* the process's own network namespace is all that is served */
    bool own_hbone; /* HBONE is taken there for the proxy's own pod, beside the pods of the node */
    const char *const *search_domains; /* dedicated: of resolv.conf, NULL at the end; else NULL */
    const char *own[3]; /* namespace, name and service account of the pod that is served there */
    const char *local_xds_path, *local_xds; /* local_xds.h; "": not given */
    const char *xds_address, *xds_roots, *xds_alternate_host;
    const char *ca_address, *ca_roots, *ca_alternate_host;
    const char *auth_token; /* NULL: not given */
    const char *token_file; /* that is read then, if it is there */
    cJSON *metadata;        /* of the mesh configuration, for the node */
    const char *crl_path;
    unsigned long secret_ttl;                    /* milliseconds, as all durations */
    const char *compliance_policy, *fips_config; /* tls_policy.h */
    bool tls12;
    const char *identity_sources_text, *identity_files, *federated_bundles; /* "": none */
    const char *spire_socket, *spire_selectors;
    struct source_choice identity_sources; /* as the text says */

    const char *workers_text;
    unsigned workers;                           /* what that amounts to: worker_count.h */
    unsigned long cpus, cpu_limit, cpu_request; /* whole processors; 0: not known */
    unsigned long admin_port, metrics_port, ready_port;
    unsigned long page_connections, page_connections_per_source;
    unsigned long peer_descriptions;
    bool core_dumps, syscall_filter;
    bool ipv6, log_json;
    const char *log_filter;

    unsigned long stream_window, connection_window, frame_size, max_streams, key_updates;
    unsigned long resumable_sessions, resumption_time;
    unsigned long memory_limit, memory_budget, pod_memory_budget; /* bytes; 0: derived */
    unsigned long max_handshakes, max_pod_handshakes, max_certificate_list;
    unsigned long max_pod_descriptors, max_peer_connections; /* never 0 once the proxy has started */
    unsigned long relay_pipes;                               /* of each worker */
    unsigned long pool_max_streams, pool_idle_timeout, gateway_tunnels;
    unsigned long connect_timeout, handshake_timeout, peer_handshake_timeout, answer_timeout, source_timeout,
        half_close_timeout, linger_timeout;
    unsigned long outbound_retries, ejection_time;
    unsigned long ping_interval, ping_timeout;
    unsigned long drain_deadline;
    unsigned long replaced_linger;
    unsigned long keepalive_time, keepalive_interval, keepalive_retries;
    bool keepalive, user_timeout;
    bool response_baggage, original_source, localhost_application_tunnel;
    const char *trust_domains_text;
    struct trust_domains trust_domains; /* as the text says; lives as long as the process */
    bool unknown_policy_denies;
    bool dry_run_info;
    bool connection_metrics;
    struct otlp_texts otlp; /* OpenTelemetry's own names */
    bool crl_required;
    const char *outbound_policy_text;
    enum outbound_policy outbound_policy; /* never UNSAID */
    const char *same_node_text;
    enum same_node same_node; /* never UNSAID */
    bool answers_dns;         /* ISTIO_META_DNS_CAPTURE; else queries of pods are forwarded, all of them */
    const char *cluster_domain, *preferred_namespace;
    unsigned long dns_timeout, max_dns_queries, max_pod_dns_queries;
    const char *name_servers;
    unsigned long name_timeout, max_names, max_name_queries;
    bool xds_on_demand;
    unsigned long lookup_timeout, lookup_absent, lookup_refresh, lookup_idle, max_lookups;
    unsigned long policy_timeout, stall_timeout, xds_request_max, xds_settle;
};

extern const struct setting proxy_settings_table[];
extern const size_t proxy_settings_count;

/*
 * Like settings_load(), with what the surroundings say where nothing is set: in a cluster
 * (KUBERNETES_SERVICE_HOST) istiod and what its pods mount, else the agent of this machine; Istio's mesh
 * configuration (mesh_config.h); names of the node proxy contract that are second ones. Valid
 * until the next call. 0, or a negative errno with a sentence in error.
 */
int proxy_settings_load(const char *mesh_config_file, struct proxy_settings *ret, int argc, char **argv,
                        int *ret_first, char *error, size_t error_size);
/* The options, for --help. */
void proxy_settings_help(FILE *out);
/* The table of docs/settings.md. */
void proxy_settings_markdown(FILE *out);

#endif
