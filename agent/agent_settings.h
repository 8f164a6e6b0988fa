/* SPDX-License-Identifier: Apache-2.0 */
/* Settings of bruma-agent; the table that fills this struct is in agent_settings.c. */
#ifndef AGENT_AGENT_SETTINGS_H
#define AGENT_AGENT_SETTINGS_H

#include <stdbool.h>
#include <stdio.h>

struct agent_settings {
    const char *run_dir, *pin_dir;
    const char *cgroup, *probe_cgroup; /* see agent/steer/steer.h; probe_cgroup may be NULL */
    const char *node;                  /* NULL: the host name */
    const char *log_level;
    bool log_json;
    unsigned long verify_interval; /* milliseconds */
    unsigned long forwarding_look; /* milliseconds, 0: never */
    unsigned long verify_walk;     /* milliseconds */
    unsigned long drain_grace;     /* milliseconds between the end of outbound and of inbound capture */
    unsigned long adopt_wait;      /* milliseconds in which a running proxy may offer its listeners */
    unsigned long proxy_drain;     /* milliseconds that a replaced proxy may go on */

    const char *guard;         /* "off", "bounded" or "strict": agent/enroll/guard.h */
    unsigned long guard_limit; /* milliseconds; of "bounded" */
    const char *guard_cgroup;  /* "auto": found below cgroup */
    const char *mesh_config;
    bool outbound_overrides, exclusions;
    bool dns_capture;                    /* of pods that say nothing themselves */
    bool direct_outside, direct_inbound; /* ways of bruma/direct.h */
    unsigned long max_direct_connections;
    const char *same_node;  /* "hbone", "relay" or "kernel" */
    bool hand_over;         /* live connections to the next proxy */
    const char *zds_socket; /* of stock node proxies; "": bruma-proxy serves */

    const char *source; /* "file" or "kubernetes" */

    /* The Kubernetes API: agent/kubernetes/kube_source.h */
    const char *kube_server; /* NULL: the environment of a pod names it */
    const char *kube_ca, *kube_token_file;
    const char *enablement_selector, *exclude_namespaces, *system_namespace;
    const char *cni_conf_dir, *cni_bin_dir, *cni_plugin; /* cni_conf_dir "": nothing is installed */
    bool cni_status_gate, cni_owned_conf;
    const char *cni_owned_conf_name;
    const char *without_agent;              /* "wait", "known" or "namespaces" */
    unsigned long decisions_age;            /* milliseconds */
    unsigned long metrics_port, ready_port; /* 0: not served */
    bool core_dumps, syscall_filter;
    unsigned long server_connections, server_connections_per_source;
    const char *daemonset, *pod_namespace;     /* daemonset "": the agent never asks after it */
    const char *cni_cache, *cri_socket, *proc; /* "": not looked at */

    /* Control plane of one machine: agent/control_plane/mesh.h */
    const char *mesh_file;
    const char *trust_domain;
    const char *ca_key_file; /* NULL: kept in the run directory */
    unsigned long xds_port;
    const char *compliance_policy, *fips_config; /* lib/tls_policy.h */
    bool tls12;
    unsigned long stall_timeout; /* milliseconds; of calls to it */
};

/* Returns 0, or -EINVAL with a sentence in error. *ret_first as in lib/settings.h. */
int agent_settings_load(struct agent_settings *settings, int argc, char **argv, int *ret_first, char *error,
                        size_t error_size);
/* Both write all settings: for --help, and for docs/settings.md. */
void agent_settings_help(FILE *out);
void agent_settings_markdown(FILE *out);

#endif
