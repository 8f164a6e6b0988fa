/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/agent_settings.h"

#include <errno.h>
#include <stddef.h>
#include <string.h>

#include "agent/kubernetes/kube_selector.h"
#include "bruma/direct.h"
#include "bruma/mesh.h"
#include "bruma/protocol.h"
#include "lib/direct_ways.h"
#include "lib/settings.h"

#define TEXT_OF(n) #n
#define TEXT(n)    TEXT_OF(n)

#define SERVICE_ACCOUNT "/var/run/secrets/kubernetes.io/serviceaccount/" /* of a pod */

static const struct setting table[] = {
    {"run-dir", "BRUMA_RUN_DIR", SETTING_STRING, BRUMA_DEFAULT_RUN_DIR,
     "directory of the agent's socket and of its records of pods", offsetof(struct agent_settings, run_dir),
     0, 0},
    {"pin-dir", "BRUMA_PIN_DIR", SETTING_STRING, BRUMA_DEFAULT_PIN_DIR,
     "directory in a BPF file system for programs, maps and links", offsetof(struct agent_settings, pin_dir),
     0, 0},
    {"cgroup", "BRUMA_CGROUP", SETTING_STRING, "/sys/fs/cgroup",
     "cgroup2 directory above all pods, such as /sys/fs/cgroup/kubepods; connect() is captured below it",
     offsetof(struct agent_settings, cgroup), 0, 0},
    {"probe-cgroup", "BRUMA_PROBE_CGROUP", SETTING_STRING, NULL,
     "cgroup2 directory of the kubelet, whose declared probes go straight to the application; auto: found by "
     "its name; unset: probes are connections like any other",
     offsetof(struct agent_settings, probe_cgroup), 0, 0},
    {"dns-capture", "AMBIENT_DNS_CAPTURE", SETTING_BOOL, "true",
     "capture DNS queries of pods (UDP port 53; TCP is captured in any case), so that the proxy answers "
     "names of the mesh; the annotation ambient.istio.io/dns-capture of a pod says otherwise",
     offsetof(struct agent_settings, dns_capture), 0, 0},
    {"direct-outside", "BRUMA_DIRECT_OUTSIDE", SETTING_BOOL, "true",
     "whether connections of pods to destinations outside the mesh go directly, past the proxy, which still "
     "accounts for them",
     offsetof(struct agent_settings, direct_outside), 0, 0},
    {"direct-inbound", "BRUMA_DIRECT_INBOUND", SETTING_BOOL, "true",
     "whether plaintext connections to pods are passed or refused in the kernel where the answer is the same "
     "for everybody; the proxy still accounts for them",
     offsetof(struct agent_settings, direct_inbound), 0, 0},
    {"max-direct-connections", "BRUMA_MAX_DIRECT_CONNECTIONS", SETTING_NUMBER, "258048",
     "how many connections may go directly at a time, of all pods; a quarter of that of one pod. Others go "
     "through the proxy",
     offsetof(struct agent_settings, max_direct_connections), 4, BRUMA_MAX_FLOWS - BRUMA_FLOWS_SPARE},
    {"same-node", "BRUMA_SAME_NODE", SETTING_STRING, SAME_NODE_DEFAULT,
     "the shortest way that connections between two pods of this node may take: hbone (a tunnel), relay (the "
     "proxy authorizes and relays them) or kernel (the proxy authorizes them, and they go past it)",
     offsetof(struct agent_settings, same_node), 0, 0},
    {"hand-over", "BRUMA_HAND_OVER", SETTING_BOOL, "true",
     "whether live connections move to the proxy that takes over from another one, instead of ending with "
     "that at the latest",
     offsetof(struct agent_settings, hand_over), 0, 0},
    {"node-name", "NODE_NAME", SETTING_STRING, NULL, "name of this node; unset: the host name",
     offsetof(struct agent_settings, node), 0, 0},
    {"log-level", "BRUMA_LOG", SETTING_STRING, "info",
     "off, error, warn, info, debug or trace; then scope=level pairs, separated by commas",
     offsetof(struct agent_settings, log_level), 0, 0},
    {"log-json", "BRUMA_LOG_JSON", SETTING_BOOL, "false", "write the log as JSON, one object a line",
     offsetof(struct agent_settings, log_json), 0, 0},
    {"verify-interval", "BRUMA_VERIFY_INTERVAL", SETTING_DURATION, "5s",
     "how often each pod's capture is checked; what has changed is verified and repaired",
     offsetof(struct agent_settings, verify_interval), 100, 3600000},
    {"forwarding-look", "BRUMA_FORWARDING_LOOK", SETTING_DURATION, "1m",
     "how often pods are checked for devices with others behind them (a bridge, the tap of a virtual "
     "machine), in addition to when a device changes; what those send is not captured, and such a pod is not "
     "announced as part of the mesh. 0: never, such pods are announced like others",
     offsetof(struct agent_settings, forwarding_look), 0, 3600000},
    {"verify-walk", "BRUMA_VERIFY_WALK", SETTING_DURATION, "2m",
     "how often each pod is verified in full although no change was seen or reported",
     offsetof(struct agent_settings, verify_walk), 100, 86400000},
    {"drain-grace", "BRUMA_DRAIN_GRACE", SETTING_DURATION, "2s",
     "time between the end of outbound and of inbound capture when a pod leaves the mesh",
     offsetof(struct agent_settings, drain_grace), 0, 3600000},
    {"adopt-wait", "BRUMA_ADOPT_WAIT", SETTING_DURATION, "3s",
     "after a start: how long a running proxy has to give back the listeners it holds",
     offsetof(struct agent_settings, adopt_wait), 0, 60000},
    {"proxy-drain", "BRUMA_PROXY_DRAIN", SETTING_DURATION, "30s",
     "how long a replaced proxy has to finish its connections", offsetof(struct agent_settings, proxy_drain),
     0, 86400000},
    {"guard", "BRUMA_GUARD", SETTING_STRING, "bounded",
     "in a cluster: whether pods are kept from TCP connections while the agent has not decided about them, "
     "from when it starts or finds the plugin's entry missing: off, bounded (until they are captured or "
     "known to be outside the mesh, at most for guard-limit) or strict (without a limit)",
     offsetof(struct agent_settings, guard), 0, 0},
    {"guard-limit", "BRUMA_GUARD_LIMIT", SETTING_DURATION, "1m",
     "how long a bounded guard stays closed at most", offsetof(struct agent_settings, guard_limit), 100,
     3600000},
    {"guard-cgroup", "BRUMA_GUARD_CGROUP", SETTING_STRING, "auto",
     "cgroup2 directory that contains all pods and nothing else; auto: kubepods or kubepods.slice, found "
     "below cgroup",
     offsetof(struct agent_settings, guard_cgroup), 0, 0},

    {"zds-socket", "ZTUNNEL_UDS_ADDRESS", SETTING_STRING, "",
     "socket on which stock node proxies are served (ztunnel expects /var/run/ztunnel/ztunnel.sock); they "
     "serve the pods then, instead of bruma-proxy; empty: bruma-proxy does",
     offsetof(struct agent_settings, zds_socket), 0, 0},

    {"source", "BRUMA_SOURCE", SETTING_STRING, "file",
     "where pods' labels come from: file (the mesh file; the agent is this machine's control plane and CA) "
     "or kubernetes (the Kubernetes API; istiod is control plane and CA)",
     offsetof(struct agent_settings, source), 0, 0},
    {"kube-server", "BRUMA_KUBE_SERVER", SETTING_STRING, NULL,
     "https URL of the API server; unset: KUBERNETES_SERVICE_HOST and _PORT, which every pod has",
     offsetof(struct agent_settings, kube_server), 0, 0},
    {"kube-ca", "KUBE_CA_FILE", SETTING_STRING, SERVICE_ACCOUNT "ca.crt",
     "certificates (PEM) by which the API server's certificate is verified",
     offsetof(struct agent_settings, kube_ca), 0, 0},
    {"kube-token-file", "BRUMA_KUBE_TOKEN_FILE", SETTING_STRING, SERVICE_ACCOUNT "token",
     "bearer token for the API server, read for each request",
     offsetof(struct agent_settings, kube_token_file), 0, 0},
    {"enablement-selector", "AMBIENT_ENABLEMENT_SELECTOR", SETTING_STRING, KUBE_DEFAULT_SELECTORS,
     "which pods belong to the mesh: a YAML list of podSelector and namespaceSelector pairs, of which one "
     "must match",
     offsetof(struct agent_settings, enablement_selector), 0, 0},
    {"exclude-namespaces", "EXCLUDE_NAMESPACES", SETTING_STRING, "",
     "namespaces whose pods stay outside the mesh, separated by commas",
     offsetof(struct agent_settings, exclude_namespaces), 0, 0},
    {"system-namespace", "SYSTEM_NAMESPACE", SETTING_STRING, "istio-system",
     "namespace of the node proxies (label app=ztunnel), which stay outside the mesh",
     offsetof(struct agent_settings, system_namespace), 0, 0},
    {"mesh-config", "BRUMA_MESH_CONFIG", SETTING_STRING, "istio",
     "ConfigMap with Istio's mesh configuration, NAME (in system-namespace) or NAMESPACE/NAME, of which "
     "outboundTrafficPolicy is followed; no pods are enrolled before the API server has answered; empty: it "
     "is "
     "not read",
     offsetof(struct agent_settings, mesh_config), 0, 0},
    {"outbound-overrides", "BRUMA_OUTBOUND_OVERRIDES", SETTING_BOOL, "true",
     "whether annotations of pods and namespaces may relax the outbound traffic policy; false: they can only "
     "make it stricter",
     offsetof(struct agent_settings, outbound_overrides), 0, 0},
    {"exclusions", "BRUMA_EXCLUSIONS", SETTING_BOOL, "true",
     "whether pods may exclude addresses and ports from capture by the annotations "
     "traffic.sidecar.istio.io/..., "
     "as with sidecars; false: these have no effect",
     offsetof(struct agent_settings, exclusions), 0, 0},
    {"cni-cache", "BRUMA_CNI_CACHE", SETTING_STRING, "/var/lib/cni",
     "directory of the CNI library's results, where network namespaces of running pods are looked up first; "
     "empty: not used",
     offsetof(struct agent_settings, cni_cache), 0, 0},
    {"cri-socket", "BRUMA_CRI_SOCKET", SETTING_STRING, "/run/containerd/containerd.sock",
     "socket of the container runtime, which is asked for them next; empty: not used",
     offsetof(struct agent_settings, cri_socket), 0, 0},
    {"proc", "BRUMA_PROC", SETTING_STRING, "/proc",
     "the node's /proc, where they are looked up last, by the cgroups of processes",
     offsetof(struct agent_settings, proc), 0, 0},

    {"cni-conf-dir", "BRUMA_CNI_CONF_DIR", SETTING_STRING, "",
     "directory of the container runtime's network configurations; bruma-cni is added to the first one; "
     "empty: nothing is installed",
     offsetof(struct agent_settings, cni_conf_dir), 0, 0},
    {"cni-bin-dir", "BRUMA_CNI_BIN_DIR", SETTING_STRING, "/opt/cni/bin",
     "directory of the container runtime's plugins, where bruma-cni is installed; empty: it is there already",
     offsetof(struct agent_settings, cni_bin_dir), 0, 0},
    {"cni-plugin", "BRUMA_CNI_PLUGIN", SETTING_STRING, BRUMA_CNI_PLUGIN_PATH,
     "the program that is installed there", offsetof(struct agent_settings, cni_plugin), 0, 0},
    {"cni-status-gate", "BRUMA_CNI_STATUS_GATE", SETTING_BOOL, "false",
     "have CNI STATUS fail while the agent does not answer, which keeps new pods off the node",
     offsetof(struct agent_settings, cni_status_gate), 0, 0},

    {"cni-owned-conf", "ISTIO_OWNED_CNI_CONFIG", SETTING_BOOL, "false",
     "leave other files as they are, and add the entry to a list of Bruma's own, which is made from the "
     "first one and sorts before it: others may rewrite theirs at boot",
     offsetof(struct agent_settings, cni_owned_conf), 0, 0},
    {"cni-owned-conf-name", "ISTIO_OWNED_CNI_CONFIG_FILENAME", SETTING_STRING, "02-bruma.conflist",
     "name of that list; it must sort before the main plugin's file",
     offsetof(struct agent_settings, cni_owned_conf_name), 0, 0},

    {"without-agent", "BRUMA_WITHOUT_AGENT", SETTING_STRING, BRUMA_WITHOUT_AGENT_KNOWN,
     "which pods may start while no agent answers, besides those of excluded namespaces: wait (none), known "
     "(those that the last agent knew to be outside the mesh, and all in namespaces whose pods cannot belong "
     "to it) or namespaces (also all in namespaces that are not in the mesh, although a pod's own label "
     "could say otherwise)",
     offsetof(struct agent_settings, without_agent), 0, 0},
    {"decisions-age", "BRUMA_DECISIONS_AGE", SETTING_DURATION, "24h",
     "how old the last agent's decisions may be for that", offsetof(struct agent_settings, decisions_age),
     1000, 0},

    {"metrics-port", "MONITORING_PORT", SETTING_NUMBER, "0", "metrics, on all addresses; 0: none",
     offsetof(struct agent_settings, metrics_port), 0, 65535},
    {"ready-port", "BRUMA_AGENT_READY_PORT", SETTING_NUMBER, "0",
     "/readyz and /healthz, and what brumactl asks from elsewhere, on loopback; 0: none",
     offsetof(struct agent_settings, ready_port), 0, 65535},
    {"server-connections", "BRUMA_AGENT_CONNECTIONS", SETTING_NUMBER, "64",
     "connections to each of the agent's servers (metrics, readiness, built-in control plane); beyond that, "
     "idle ones are closed for new ones",
     offsetof(struct agent_settings, server_connections), 2, 1000},
    {"server-connections-per-source", "BRUMA_AGENT_CONNECTIONS_PER_SOURCE", SETTING_NUMBER, "16",
     "the same for one source: a user of this machine, an IPv4 address, an IPv6 /64",
     offsetof(struct agent_settings, server_connections_per_source), 1, 1000},
    {"core-dumps", "BRUMA_AGENT_CORE_DUMPS", SETTING_BOOL, "false",
     "allow core files and debuggers for the agent, whose memory holds the built-in CA's key",
     offsetof(struct agent_settings, core_dumps), 0, 0},
    {"syscall-filter", "BRUMA_AGENT_SYSCALL_FILTER", SETTING_BOOL, "true",
     "refuse system calls that the agent never makes once it is ready (seccomp)",
     offsetof(struct agent_settings, syscall_filter), 0, 0},
    {"daemonset", "BRUMA_DAEMONSET", SETTING_STRING, "",
     "name of the DaemonSet that the agent belongs to: if --retire deletes it, or it no longer selects this "
     "node, the agent removes everything from the node when it ends; empty: everything stays",
     offsetof(struct agent_settings, daemonset), 0, 0},
    {"pod-namespace", "POD_NAMESPACE", SETTING_STRING, "istio-system", "namespace of that DaemonSet",
     offsetof(struct agent_settings, pod_namespace), 0, 0},

    {"mesh-file", "BRUMA_MESH_FILE", SETTING_STRING, "/etc/bruma/mesh.yaml",
     "namespaces, workloads, services and policies of the mesh", offsetof(struct agent_settings, mesh_file),
     0, 0},
    {"trust-domain", "TRUST_DOMAIN", SETTING_STRING, "cluster.local",
     "trust domain of this mesh's identities", offsetof(struct agent_settings, trust_domain), 0, 0},
    {"ca-key-file", "BRUMA_CA_KEY_FILE", SETTING_STRING, NULL,
     "private key (PEM) of the built-in CA; unset: one is made and kept in the run directory",
     offsetof(struct agent_settings, ca_key_file), 0, 0},
    {"xds-port", "BRUMA_XDS_PORT", SETTING_NUMBER, TEXT(BRUMA_PORT_XDS),
     "port on loopback of the built-in control plane", offsetof(struct agent_settings, xds_port), 0, 65535},
    {"compliance-policy", "COMPLIANCE_POLICY", SETTING_STRING, "",
     "what TLS of the built-in control plane and CA is limited to: as the proxy's, which has the same "
     "setting",
     offsetof(struct agent_settings, compliance_policy), 0, 0},
    {"fips-config", "BRUMA_FIPS_CONFIG", SETTING_STRING, "",
     "only with compliance-policy fips-140-2 or fips-140-3: as the proxy's",
     offsetof(struct agent_settings, fips_config), 0, 0},
    {"tls12", "TLS12_ENABLED", SETTING_BOOL, "false", "accept TLS 1.2 beside 1.3 there",
     offsetof(struct agent_settings, tls12), 0, 0},
    {"stall-timeout", "BRUMA_STALL_TIMEOUT", SETTING_DURATION, "60s",
     "a call to the built-in control plane is reset if it makes no progress for so long although its client "
     "owes data or does not read",
     offsetof(struct agent_settings, stall_timeout), 1000, 3600000},
};

static int check(const struct agent_settings *settings, char *error, size_t error_size)
{
    static const char letters[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789.-_";
    size_t len = strlen(settings->trust_domain);
    const char *end;

    /* It becomes part of every identity. */
    if (!len || len > 255 || settings->trust_domain[strspn(settings->trust_domain, letters)]) {
        snprintf(error, error_size,
                 "trust-domain: \"%.100s\" is not a trust domain: letters, digits, '.', '-' and '_'",
                 settings->trust_domain);
        return -EINVAL;
    }
    if (strcmp(settings->source, "file") != 0 && strcmp(settings->source, "kubernetes") != 0) {
        snprintf(error, error_size, "source: %.100s is neither file nor kubernetes", settings->source);
        return -EINVAL;
    }
    if (strchr(settings->cni_owned_conf_name, '/') || *settings->cni_owned_conf_name == '.' ||
        !(end = strrchr(settings->cni_owned_conf_name, '.')) || strcmp(end, ".conflist") != 0 ||
        strlen(settings->cni_owned_conf_name) > 200) {
        snprintf(error, error_size, "cni-owned-conf-name: %.100s is not a file name that ends in .conflist",
                 settings->cni_owned_conf_name);
        return -EINVAL;
    }
    if (strcmp(settings->guard, "off") != 0 && strcmp(settings->guard, "bounded") != 0 &&
        strcmp(settings->guard, "strict") != 0) {
        snprintf(error, error_size, "guard: %.100s is neither off nor bounded nor strict", settings->guard);
        return -EINVAL;
    }
    if (strcmp(settings->same_node, "hbone") != 0 && strcmp(settings->same_node, "relay") != 0 &&
        strcmp(settings->same_node, "kernel") != 0) {
        snprintf(error, error_size, "same-node: %.100s is neither hbone nor relay nor kernel",
                 settings->same_node);
        return -EINVAL;
    }
    if (strcmp(settings->without_agent, BRUMA_WITHOUT_AGENT_WAIT) != 0 &&
        strcmp(settings->without_agent, BRUMA_WITHOUT_AGENT_KNOWN) != 0 &&
        strcmp(settings->without_agent, BRUMA_WITHOUT_AGENT_NAMESPACES) != 0) {
        snprintf(error, error_size, "without-agent: %.100s is neither wait nor known nor namespaces",
                 settings->without_agent);
        return -EINVAL;
    }
    if (strcmp(settings->guard_cgroup, "auto") != 0 && *settings->guard_cgroup != '/') {
        snprintf(error, error_size, "guard-cgroup: %.100s is neither auto nor an absolute path",
                 settings->guard_cgroup);
        return -EINVAL;
    }
    return 0;
}

int agent_settings_load(struct agent_settings *settings, int argc, char **argv, int *ret_first, char *error,
                        size_t error_size)
{
    int r;

    memset(settings, 0, sizeof(*settings));
    r = settings_load(table, sizeof(table) / sizeof(table[0]), settings, argc, argv, ret_first, error,
                      error_size);
    return r < 0 ? r : check(settings, error, error_size);
}

void agent_settings_help(FILE *out)
{
    settings_help(table, sizeof(table) / sizeof(table[0]), out);
}

void agent_settings_markdown(FILE *out)
{
    settings_markdown(table, sizeof(table) / sizeof(table[0]), out);
}
