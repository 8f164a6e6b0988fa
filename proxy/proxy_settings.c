/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/proxy_settings.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/un.h>
#include <unistd.h>

#include "bruma/mesh.h"
#include "lib/tls_policy.h"
#include "proxy/contract_settings.h"
#include "proxy/identity/spire_selectors.h"
#include "proxy/own_settings.h"
#include "proxy/worker_count.h"
#include "proxy/xds/mesh_config.h"

#define FIELD(name) offsetof(struct proxy_settings, name)

/* clang-format off */
const struct setting proxy_settings_table[] = {
    {"run-dir", "BRUMA_RUN_DIR", SETTING_STRING, BRUMA_DEFAULT_RUN_DIR, "directory of the agent's and the proxy's sockets", FIELD(run_dir), 0, 0},
    {"agent-socket", "BRUMA_AGENT_SOCKET", SETTING_STRING, "", "the agent's socket; empty: agent.sock in the run directory", FIELD(agent_socket), 0, 0},
    {"inpod-uds", "INPOD_UDS", SETTING_STRING, "", "socket of a CNI agent that replaces bruma-agent: it announces pods over ZDS and captures their traffic with netfilter rules (istio-cni: /var/run/ztunnel/ztunnel.sock); empty: bruma-agent", FIELD(zds_socket), 0, 0},
    {"inpod-port-reuse", "INPOD_PORT_REUSE", SETTING_BOOL, "true", "only with inpod-uds: allow another proxy to listen in the same pods, as during an upgrade", FIELD(port_reuse), 0, 0},
    {"hand-over-socket", "BRUMA_HAND_OVER_SOCKET", SETTING_STRING, "", "only with inpod-uds: where a proxy that ends finds the next one, and live connections move to it; empty: they do not. In a directory of root that both mount (/var/run/ztunnel/bruma-hand-over.sock)", FIELD(hand_over_socket), 0, 0},
    {"packet-mark", "PACKET_MARK", SETTING_NUMBER, "1337", "only with inpod-uds: mark of the proxy's sockets in pods, which the agent's rules exempt; 0: none, which is the default with proxy-mode dedicated", FIELD(packet_mark), 0, 4294967295},
    {"node-name", "NODE_NAME", SETTING_STRING, "", "name of this node; only its workloads are local", FIELD(node_name), 0, 0},
    {"network", "NETWORK", SETTING_STRING, "", "network ID of this node", FIELD(network), 0, 0},
    {"cluster-id", "CLUSTER_ID", SETTING_STRING, "Kubernetes", "cluster ID, sent to the control plane", FIELD(cluster_id), 0, 0},
    {"instance-ip", "INSTANCE_IP", SETTING_STRING, "1.1.1.1", "address in the node ID", FIELD(instance_ip), 0, 0},
    {"pod-name", "POD_NAME", SETTING_STRING, "", "name in the node ID; empty: bruma-proxy", FIELD(pod_name), 0, 0},
    {"pod-namespace", "POD_NAMESPACE", SETTING_STRING, "", "namespace in the node ID; empty: istio-system", FIELD(pod_namespace), 0, 0},
    {"service-account", "SERVICE_ACCOUNT", SETTING_STRING, "", "service account of the proxy's own pod; with pod-name and pod-namespace set as well, the proxy takes HBONE on port 15008 of its own network namespace, so that the mesh reaches its metrics by mutual TLS; empty: it does not", FIELD(service_account), 0, 0},
    {"socks", "UNSTABLE_ENABLE_SOCKS5", SETTING_BOOL, "false", "a SOCKS5 server on port 15080 of each pod's loopback, for applications that are to say by name where to", FIELD(socks), 0, 0},
    {"proxy-mode", "PROXY_MODE", SETTING_STRING, "shared", "shared: the pods of a node, that an agent names; dedicated: only the machine or pod that the proxy runs in, captured by rules that it does not make", FIELD(proxy_mode), 0, 0},
    {"workload-info", "PROXY_WORKLOAD_INFO", SETTING_STRING, "", "only with proxy-mode dedicated: NAMESPACE/NAME/SERVICEACCOUNT of the workload", FIELD(workload_info), 0, 0},
    {"trust-domain", "TRUST_DOMAIN", SETTING_STRING, "", "trust domain of the pod in the proxy's own network namespace until the control plane says it; empty: that of the node's other pods", FIELD(trust_domain), 0, 0},
    {"xds-address", "XDS_ADDRESS", SETTING_STRING, NULL, "control plane; empty: none; unset: discoveryAddress of the mesh configuration, else istiod.istio-system.svc in a cluster, else the agent of this machine", FIELD(xds_address), 0, 0},
    {"xds-root-ca", "XDS_ROOT_CA", SETTING_STRING, NULL, "roots of the control plane's certificate: a path, PEM text, or SYSTEM; unset: istio/root-cert.pem in /var/run/secrets in a cluster, else control/root-cert.pem of the agent's run directory", FIELD(xds_roots), 0, 0},
    {"alt-xds-hostname", "ALT_XDS_HOSTNAME", SETTING_STRING, NULL, "another name that the control plane's certificate may carry", FIELD(xds_alternate_host), 0, 0},
    {"local-xds-path", "LOCAL_XDS_PATH", SETTING_STRING, "", "YAML file of workloads, services and policies that are known beside those of the control plane, or with XDS_ADDRESS empty instead of them; the form is that of the mesh file; read once, at start", FIELD(local_xds_path), 0, 0},
    {"local-xds", "LOCAL_XDS", SETTING_STRING, "", "the same, the text itself", FIELD(local_xds), 0, 0},
    {"ca-address", "CA_ADDRESS", SETTING_STRING, NULL, "certificate authority; unset: istiod.istio-system.svc in a cluster, else the agent of this machine", FIELD(ca_address), 0, 0},
    {"ca-root-ca", "CA_ROOT_CA", SETTING_STRING, NULL, "roots of the certificate authority's certificate: a path, PEM text, or SYSTEM; unset: as for xds-root-ca", FIELD(ca_roots), 0, 0},
    {"alt-ca-hostname", "ALT_CA_HOSTNAME", SETTING_STRING, NULL, "another name that the certificate authority's certificate may carry", FIELD(ca_alternate_host), 0, 0},
    {"auth-token", "AUTH_TOKEN", SETTING_STRING, NULL, "bearer token: a path, read for each call, or the token itself; empty: none; unset: tokens/istio-token in /var/run/secrets in a cluster, else control/token of the agent's run directory if that file exists", FIELD(auth_token), 0, 0},
    {"identity-sources", "BRUMA_IDENTITY_SOURCES", SETTING_STRING, "ca", "where certificates of pods come from: ca, the certificate authority, files, or spire; and for single trust domains TRUST-DOMAIN=SOURCE, with commas between them (files, mesh.example=ca)", FIELD(identity_sources_text), 0, 0},
    {"identity-files", "BRUMA_IDENTITY_FILES", SETTING_STRING, "", "only with identity-sources files: the directory of an identity's files tls.crt (with intermediates), tls.key and ca.crt (the roots of its trust domain), all PEM, reloaded when they change; {trust-domain}, {namespace} and {account} in it stand for the parts of the identity", FIELD(identity_files), 0, 0},
    {"spire-socket", "BRUMA_SPIRE_SOCKET", SETTING_STRING, "", "only with identity-sources spire: the admin socket of the node's SPIRE agent, for its Delegated Identity API; with PROXY_MODE=dedicated, its Workload API's socket", FIELD(spire_socket), 0, 0},
    {"spire-selectors", "BRUMA_SPIRE_SELECTORS", SETTING_STRING, "k8s:ns:{namespace},k8s:sa:{account},k8s:pod-uid:{pod-uid}", "the selectors by which SPIRE knows the pods of an identity, TYPE:VALUE with commas between them; {trust-domain}, {namespace} and {account} in a value stand for the parts of the identity, and one with {pod-uid} is named once for each pod of the identity on this node", FIELD(spire_selectors), 0, 0},
    {"federated-bundles", "BRUMA_FEDERATED_BUNDLES", SETTING_STRING, "", "directory with the roots of other trust domains whose identities are accepted, TRUST-DOMAIN.pem for each, reloaded when they change; empty: none", FIELD(federated_bundles), 0, 0},
    {"crl-path", "CRL_PATH", SETTING_STRING, "", "certificate revocation lists, PEM or DER, reloaded when they change; empty: none", FIELD(crl_path), 0, 0},
    {"crl-required", "BRUMA_CRL_REQUIRED", SETTING_BOOL, "true", "only with crl-path: refuse all peers, and do not become ready, until revocation lists have been read once; false: serve meanwhile, with no certificate revoked", FIELD(crl_required), 0, 0},
    {"compliance-policy", "COMPLIANCE_POLICY", SETTING_STRING, "", "what TLS is limited to, towards peers, the control plane and the certificate authority: fips-140-2 and fips-140-3 (approved algorithms, all of OpenSSL's FIPS provider), pqc (X25519MLKEM768 alone), or empty: nothing beyond the versions and suites that a mesh has; without what it needs of OpenSSL the proxy does not start", FIELD(compliance_policy), 0, 0},
    {"fips-config", "BRUMA_FIPS_CONFIG", SETTING_STRING, "", "only with compliance-policy fips-140-2 or fips-140-3: the file that openssl fipsinstall has made for the provider on this machine; empty: OpenSSL's own configuration includes it", FIELD(fips_config), 0, 0},
    {"tls12", "TLS12_ENABLED", SETTING_BOOL, "false", "accept and offer TLS 1.2 beside 1.3, with ECDHE and AES-GCM alone", FIELD(tls12), 0, 0},
    {"secret-ttl", "SECRET_TTL", SETTING_DURATION, "24h", "lifetime that is requested for certificates", FIELD(secret_ttl), 60000, 0},
    {"workers", "ZTUNNEL_WORKER_THREADS", SETTING_STRING, "auto", "worker threads: a number (0: as many as processors), a share of the processors such as 50%, or auto: cpu-limit, without one a quarter of the processors, and at least cpu-request", FIELD(workers_text), 0, 0},
    {"cpus", "ZTUNNEL_CPU_LIMIT", SETTING_NUMBER, "0", "processors that workers is a share of; 0: those of the node", FIELD(cpus), 0, 1000000},
    {"cpu-limit", "ZTUNNEL_RESOURCE_CPU_LIMIT", SETTING_NUMBER, "0", "whole processors that the proxy's container may use; 0: not known", FIELD(cpu_limit), 0, 0},
    {"cpu-request", "ZTUNNEL_RESOURCE_CPU_REQUEST", SETTING_NUMBER, "0", "whole processors that the proxy's container is granted; 0: not known", FIELD(cpu_request), 0, 0},
    {"admin-port", "BRUMA_ADMIN_PORT", SETTING_NUMBER, "15000", "admin pages, on loopback; 0: none", FIELD(admin_port), 0, 65535},
    {"metrics-port", "BRUMA_METRICS_PORT", SETTING_NUMBER, "15020", "metrics; 0: none", FIELD(metrics_port), 0, 65535},
    {"ready-port", "BRUMA_READY_PORT", SETTING_NUMBER, "15021", "readiness; 0: none", FIELD(ready_port), 0, 65535},
    {"page-connections", "BRUMA_PAGE_CONNECTIONS", SETTING_NUMBER, "64", "connections to each of the servers on these ports; beyond that, idle ones are closed for new ones", FIELD(page_connections), 2, 1000},
    {"page-connections-per-source", "BRUMA_PAGE_CONNECTIONS_PER_SOURCE", SETTING_NUMBER, "16", "the same for one source: a user of this machine, an IPv4 address, an IPv6 /64", FIELD(page_connections_per_source), 1, 1000},
    {"peer-descriptions", "BRUMA_PEER_DESCRIPTIONS", SETTING_NUMBER, "16", "how many workload descriptions (baggage) of one peer become metric labels, per worker; further ones count as unknown", FIELD(peer_descriptions), 0, 1000},
    {"otlp-endpoint", "OTEL_EXPORTER_OTLP_ENDPOINT", SETTING_STRING, "", "an OpenTelemetry collector, http:// or https://, which access log, metrics and traces are sent to (OTLP in HTTP and protobuf); v1/logs and so on comes behind its path; empty: none (docs/monitoring.md)", FIELD(otlp.endpoint), 0, 0},
    {"otlp-logs-endpoint", "OTEL_EXPORTER_OTLP_LOGS_ENDPOINT", SETTING_STRING, "", "the same for the access log alone, with the whole path", FIELD(otlp.endpoints[OTLP_LOGS]), 0, 0},
    {"otlp-metrics-endpoint", "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", SETTING_STRING, "", "the same for metrics", FIELD(otlp.endpoints[OTLP_METRICS]), 0, 0},
    {"otlp-traces-endpoint", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", SETTING_STRING, "", "the same for traces", FIELD(otlp.endpoints[OTLP_TRACES]), 0, 0},
    {"otlp-logs", "OTEL_LOGS_EXPORTER", SETTING_STRING, "otlp", "otlp; none: the access log is not exported, whatever endpoints there are", FIELD(otlp.exporters[OTLP_LOGS]), 0, 0},
    {"otlp-metrics", "OTEL_METRICS_EXPORTER", SETTING_STRING, "otlp", "the same for metrics", FIELD(otlp.exporters[OTLP_METRICS]), 0, 0},
    {"otlp-traces", "OTEL_TRACES_EXPORTER", SETTING_STRING, "otlp", "the same for traces", FIELD(otlp.exporters[OTLP_TRACES]), 0, 0},
    {"otlp-protocol", "OTEL_EXPORTER_OTLP_PROTOCOL", SETTING_STRING, "http/protobuf", "http/protobuf, and nothing else", FIELD(otlp.protocol), 0, 0},
    {"otlp-headers", "OTEL_EXPORTER_OTLP_HEADERS", SETTING_STRING, "", "headers of these requests: NAME=VALUE,NAME=VALUE, values percent-encoded", FIELD(otlp.headers), 0, 0},
    {"otlp-compression", "OTEL_EXPORTER_OTLP_COMPRESSION", SETTING_STRING, "gzip", "gzip or none", FIELD(otlp.compression), 0, 0},
    {"otlp-timeout", "OTEL_EXPORTER_OTLP_TIMEOUT", SETTING_NUMBER, "10000", "milliseconds that one such request may take", FIELD(otlp.timeout), 1, 600000},
    {"otlp-certificate", "OTEL_EXPORTER_OTLP_CERTIFICATE", SETTING_STRING, "", "file of the roots of the collector's certificate, PEM; empty: those of the system", FIELD(otlp.certificate), 0, 0},
    {"otlp-service-name", "OTEL_SERVICE_NAME", SETTING_STRING, "", "service.name of what is exported; empty: that of the resource attributes, else bruma-proxy", FIELD(otlp.service_name), 0, 0},
    {"otlp-resource-attributes", "OTEL_RESOURCE_ATTRIBUTES", SETTING_STRING, "", "more attributes of the resource: NAME=VALUE,NAME=VALUE, values percent-encoded", FIELD(otlp.resource_attributes), 0, 0},
    {"otlp-metrics-interval", "OTEL_METRIC_EXPORT_INTERVAL", SETTING_NUMBER, "60000", "milliseconds between two exports of metrics", FIELD(otlp.interval), 1000, 86400000},
    {"otlp-sampler", "OTEL_TRACES_SAMPLER", SETTING_STRING, "parentbased_always_on", "which connections have a span: always_on, always_off or traceidratio; with parentbased_ in front, that is decided where a connection begins, and the other side follows", FIELD(otlp.sampler), 0, 0},
    {"otlp-sampler-arg", "OTEL_TRACES_SAMPLER_ARG", SETTING_STRING, "1.0", "the share of traceidratio and parentbased_traceidratio, from 0 to 1", FIELD(otlp.sampler_argument), 0, 0},
    {"connection-metrics", "BRUMA_CONNECTION_METRICS", SETTING_BOOL, "true", "measure connections: histograms of their life, size and waiting, handshakes, round trips (docs/monitoring.md)", FIELD(connection_metrics), 0, 0},
    {"core-dumps", "BRUMA_CORE_DUMPS", SETTING_BOOL, "false", "allow core files and debuggers for the proxy, whose memory holds private keys", FIELD(core_dumps), 0, 0},
    {"syscall-filter", "BRUMA_SYSCALL_FILTER", SETTING_BOOL, "true", "refuse system calls that the proxy never makes (seccomp)", FIELD(syscall_filter), 0, 0},
    {"ipv6", "IPV6_ENABLED", SETTING_BOOL, "true", "bind servers, and the listeners that the proxy itself opens in pods, to IPv6 as well", FIELD(ipv6), 0, 0},
    {"log-json", "BRUMA_LOG_JSON", SETTING_BOOL, "false", "write the log as JSON, one object a line (as LOG_FORMAT=json)", FIELD(log_json), 0, 0},
    {"log", "RUST_LOG", SETTING_STRING, "info", "log levels: level, or scope=level, comma separated", FIELD(log_filter), 0, 0},
    {"stream-window", "HTTP2_STREAM_WINDOW_SIZE", SETTING_NUMBER, "4194304", "bytes that a peer may send on a stream ahead of its reader", FIELD(stream_window), 65535, 2147483647},
    {"connection-window", "HTTP2_CONNECTION_WINDOW_SIZE", SETTING_NUMBER, "16777216", "the same for a whole tunnel", FIELD(connection_window), 65535, 2147483647},
    {"frame-size", "HTTP2_FRAME_SIZE", SETTING_NUMBER, "1048576", "largest HTTP/2 frame that is accepted, in bytes", FIELD(frame_size), 16384, 16777215},
    {"max-streams", "BRUMA_MAX_STREAMS", SETTING_NUMBER, "200", "streams that a peer may have open on one tunnel", FIELD(max_streams), 1, 10000},
    {"key-updates", "BRUMA_KEY_UPDATES", SETTING_NUMBER, "32", "TLS key updates (and tickets) that a peer may send on a tunnel with hardly any data in between; 512 bytes of data earn one back", FIELD(key_updates), 1, 1000000},
    {"resumable-sessions", "BRUMA_RESUMABLE_SESSIONS", SETTING_NUMBER, "4096", "TLS sessions with other Bruma proxies that are kept, of each role, for new tunnels to go on from without certificates and signatures; beyond that the oldest one is forgotten; 0: every handshake is a full one", FIELD(resumable_sessions), 0, 1000000},
    {"resumption-time", "BRUMA_RESUMPTION_TIME", SETTING_DURATION, "1h", "how long after a full handshake its sessions can be resumed, at most; and no longer than its certificates are valid", FIELD(resumption_time), 1000, 0},
    {"memory-limit", "BRUMA_MEMORY_LIMIT", SETTING_NUMBER, "0", "bytes that the process may use in all; 0: the limit of its cgroup", FIELD(memory_limit), 0, 0},
    {"memory-budget", "BRUMA_MEMORY_BUDGET", SETTING_NUMBER, "0", "bytes that may be buffered for slow readers; from a quarter of it on peers get less credit, and near its end the connections that hold most are closed; 0: a quarter of the memory limit, 256 MiB without one", FIELD(memory_budget), 0, 0},
    {"pod-memory-budget", "BRUMA_POD_MEMORY_BUDGET", SETTING_NUMBER, "0", "the same for each pod; 0: half of memory-budget", FIELD(pod_memory_budget), 0, 0},
    {"max-handshakes", "BRUMA_MAX_HANDSHAKES", SETTING_NUMBER, "1024", "TLS handshakes of peers that may be under way at once, shared evenly by the workers; beyond that the oldest is closed", FIELD(max_handshakes), 1, 1000000},
    {"max-pod-handshakes", "BRUMA_MAX_POD_HANDSHAKES", SETTING_NUMBER, "512", "the same for one pod", FIELD(max_pod_handshakes), 1, 1000000},
    {"max-certificate-list", "BRUMA_MAX_CERTIFICATE_LIST", SETTING_NUMBER, "32768", "bytes of certificates that a peer may send in its handshake", FIELD(max_certificate_list), 4096, 1048576},
    {"max-pod-descriptors", "BRUMA_MAX_POD_DESCRIPTORS", SETTING_NUMBER, "0", "descriptors that the connections of one pod may use; 0: three quarters of the process's limit", FIELD(max_pod_descriptors), 0, 100000000},
    {"max-peer-connections", "BRUMA_MAX_PEER_CONNECTIONS", SETTING_NUMBER, "0", "connections, tunnels included, that one address may have to one pod; 0: three quarters of the pod's limit", FIELD(max_peer_connections), 0, 100000000},
    {"relay-pipes", "BRUMA_RELAY_PIPES", SETTING_NUMBER, "256", "pipes that each worker may have, by which much at a time goes from one plain socket to another without being copied (splice); together they take a sixteenth of the process's descriptors at most; without one, bytes are copied; 0: they always are", FIELD(relay_pipes), 0, 100000},
    {"pool-max-streams", "POOL_MAX_STREAMS_PER_CONNECTION", SETTING_NUMBER, "100", "streams that are opened on one tunnel to a peer", FIELD(pool_max_streams), 1, 10000},
    {"pool-idle-timeout", "POOL_UNUSED_RELEASE_TIMEOUT", SETTING_DURATION, "5m", "an unused tunnel is closed after this", FIELD(pool_idle_timeout), 100, 0},
    {"gateway-tunnels", "BRUMA_GATEWAY_TUNNELS", SETTING_NUMBER, "8", "tunnels to a service in another network, among which a pod's connections are spread; the gateway chooses an endpoint for each tunnel", FIELD(gateway_tunnels), 1, 10000},
    {"connect-timeout", "BRUMA_CONNECT_TIMEOUT", SETTING_DURATION, "10s", "limit of a TCP connect", FIELD(connect_timeout), 1, 0},
    {"outbound-retries", "BRUMA_OUTBOUND_RETRIES", SETTING_NUMBER, "3", "how often a connection to a service is tried on another endpoint, when one fails before the connection is made, all within connect-timeout; 0: never", FIELD(outbound_retries), 0, PROXY_RETRIES_MAX},
    {"ejection-time", "BRUMA_EJECTION_TIME", SETTING_DURATION, "1s", "how long a service's endpoint that failed so, or has said GOAWAY, is left out of the choice, twice as long each time that it happens again, up to 30s; 0: not at all", FIELD(ejection_time), 0, 0},
    {"handshake-timeout", "BRUMA_HANDSHAKE_TIMEOUT", SETTING_DURATION, "10s", "limit of a TLS handshake that a peer begins", FIELD(handshake_timeout), 1, 0},
    {"peer-handshake-timeout", "BRUMA_PEER_HANDSHAKE_TIMEOUT", SETTING_DURATION, "60s", "limit of a TLS handshake with the proxy of another node, long enough for it to restart", FIELD(peer_handshake_timeout), 1, 0},
    {"answer-timeout", "BRUMA_ANSWER_TIMEOUT", SETTING_DURATION, "20s", "limit of the wait for the answer to CONNECT", FIELD(answer_timeout), 1, 0},
    {"source-timeout", "BRUMA_SOURCE_TIMEOUT", SETTING_DURATION, "5s", "how long a new connection waits for its pod to be known and to have a certificate", FIELD(source_timeout), 1, 0},
    {"half-close-timeout", "BRUMA_HALF_CLOSE_TIMEOUT", SETTING_DURATION, "1h", "a half-closed connection without traffic is closed after this", FIELD(half_close_timeout), 1000, 0},
    {"linger-timeout", "BRUMA_LINGER_TIMEOUT", SETTING_DURATION, "5s", "how long a connection whose other side has ended waits for a reader that takes nothing; what was sent before the end is delivered first", FIELD(linger_timeout), 1, 0},
    {"ping-interval", "BRUMA_PING_INTERVAL", SETTING_DURATION, "10s", "how often a silent tunnel is sent a PING", FIELD(ping_interval), 100, 0},
    {"ping-timeout", "BRUMA_PING_TIMEOUT", SETTING_DURATION, "20s", "limit of the wait for its answer", FIELD(ping_timeout), 100, 0},
    {"drain-deadline", "CONNECTION_TERMINATION_DEADLINE", SETTING_DURATION, "5s", "how long connections may continue after SIGTERM", FIELD(drain_deadline), 0, 0},
    {"replaced-linger", "BRUMA_REPLACED_LINGER", SETTING_DURATION, "0s", "how long a replaced proxy keeps the listeners, even when it is idle, unless it gets SIGTERM; in a cluster 15s by default, because the kubelet restarts what exits by itself", FIELD(replaced_linger), 0, 0},
    {"keepalive", "KEEPALIVE_ENABLED", SETTING_BOOL, "true", "TCP keepalive on connections", FIELD(keepalive), 0, 0},
    {"keepalive-time", "KEEPALIVE_TIME", SETTING_DURATION, "180s", "idle time before the first probe", FIELD(keepalive_time), 1000, 0},
    {"keepalive-interval", "KEEPALIVE_INTERVAL", SETTING_DURATION, "180s", "time between probes", FIELD(keepalive_interval), 1000, 0},
    {"keepalive-retries", "KEEPALIVE_RETRIES", SETTING_NUMBER, "9", "probes without an answer before the connection is dead", FIELD(keepalive_retries), 1, 127},
    {"user-timeout", "USER_TIMEOUT_ENABLED", SETTING_BOOL, "false", "end a connection also if what was sent to the other side is not acknowledged for keepalive-time and keepalive-retries times keepalive-interval", FIELD(user_timeout), 0, 0},
    {"response-baggage", "ENABLE_RESPONSE_BAGGAGE", SETTING_BOOL, "true", "describe the destination in the answer to CONNECT", FIELD(response_baggage), 0, 0},
    {"original-source", "ENABLE_ORIG_SRC", SETTING_BOOL, "true", "connect to applications from the client's address; with proxy-mode dedicated false by default", FIELD(original_source), 0, 0},
    {"localhost-app-tunnel", "LOCALHOST_APP_TUNNEL", SETTING_BOOL, "true", "reach applications that ask for a PROXY tunnel on loopback", FIELD(localhost_application_tunnel), 0, 0},
    {"unknown-policy-denies", "BRUMA_UNKNOWN_POLICY_DENIES", SETTING_BOOL, "true", "refuse if a policy that a workload names has not arrived in time", FIELD(unknown_policy_denies), 0, 0},
    {"dry-run-info", "AUTHZ_POLICY_INFO_LOGGING", SETTING_BOOL, "false", "log at level info, and not debug, what dry-run policies would have made of a connection", FIELD(dry_run_info), 0, 0},
    {"policy-timeout", "BRUMA_POLICY_TIMEOUT", SETTING_DURATION, "5s", "how long a connection waits for a policy that its workload names and that has not arrived", FIELD(policy_timeout), 0, 0},
    {"outbound-traffic-policy", "BRUMA_OUTBOUND_TRAFFIC_POLICY", SETTING_STRING, "ALLOW_ANY", "destinations outside the mesh, of pods of which the agent does not say it: ALLOW_ANY passes connections to them through, REGISTRY_ONLY refuses them; default: outboundTrafficPolicy of the mesh configuration", FIELD(outbound_policy_text), 0, 0},
    {"same-node", "BRUMA_SAME_NODE", SETTING_STRING, SAME_NODE_DEFAULT, "how two pods that this proxy serves both reach each other; relay: it decides and carries, without a tunnel; hbone: through a tunnel, as pods of two nodes; the agent and annotations of pods may say hbone too", FIELD(same_node_text), 0, 0},
    {"trust-domain-aliases", "BRUMA_TRUST_DOMAIN_ALIASES", SETTING_STRING, "", "trust domains, separated by commas, whose identities count as those of the pod's own one, for peers and for principals in policies; unset: trustDomainAliases of the mesh configuration, and its trustDomain", FIELD(trust_domains_text), 0, 0},
    {"cluster-domain", "CLUSTER_DOMAIN", SETTING_STRING, "cluster.local", "domain of the cluster's services, for the names that pods query", FIELD(cluster_domain), 0, 0},
    {"preferred-service-namespace", "PREFERED_SERVICE_NAMESPACE", SETTING_STRING, "", "namespace whose service answers a DNS query if several services have the host name and none is in the pod's own namespace; empty: none is preferred", FIELD(preferred_namespace), 0, 0},
    {"dns-timeout", "BRUMA_DNS_TIMEOUT", SETTING_DURATION, "4s", "how long a DNS server that a pod queries may take to answer; then the pod gets SERVFAIL", FIELD(dns_timeout), 100, 60000},
    {"max-dns-queries", "BRUMA_MAX_DNS_QUERIES", SETTING_NUMBER, "4096", "DNS queries that a worker forwards at once; beyond that the pod gets SERVFAIL", FIELD(max_dns_queries), 1, 1000000},
    {"max-pod-dns-queries", "BRUMA_MAX_POD_DNS_QUERIES", SETTING_NUMBER, "1024", "the same for one pod, on all workers", FIELD(max_pod_dns_queries), 1, 1000000},
    {"name-servers", "BRUMA_NAME_SERVERS", SETTING_STRING, "", "DNS servers for hostnames of workloads: ADDRESS or ADDRESS:PORT, separated by commas; empty: those in /etc/resolv.conf of the proxy", FIELD(name_servers), 0, 0},
    {"name-timeout", "BRUMA_NAME_TIMEOUT", SETTING_DURATION, "4s", "how long a connection waits for the address of a workload that has a hostname", FIELD(name_timeout), 100, 60000},
    {"max-names", "BRUMA_MAX_NAMES", SETTING_NUMBER, "4096", "hostnames of workloads whose addresses are remembered; beyond that the one that has not been used for the longest time is forgotten", FIELD(max_names), 1, 1000000},
    {"max-name-queries", "BRUMA_MAX_NAME_QUERIES", SETTING_NUMBER, "128", "hostnames that are resolved at once; beyond that connections are refused; a pod's SOCKS clients have a quarter of it", FIELD(max_name_queries), 1, 10000},
    {"xds-on-demand", "XDS_ON_DEMAND", SETTING_BOOL, "false", "ask the control plane for workloads and services when a connection needs them, instead of subscribing to all; needs ISTIO_META_DNS_CAPTURE=false", FIELD(xds_on_demand), 0, 0},
    {"lookup-timeout", "BRUMA_LOOKUP_TIMEOUT", SETTING_DURATION, "5s", "with xds-on-demand: how long a connection waits for the answer", FIELD(lookup_timeout), 1, 0},
    {"lookup-absent", "BRUMA_LOOKUP_ABSENT", SETTING_DURATION, "5s", "with xds-on-demand: how long the answer that there is nothing is good for", FIELD(lookup_absent), 100, 0},
    {"lookup-refresh", "BRUMA_LOOKUP_REFRESH", SETTING_DURATION, "15s", "with xds-on-demand: how often what connections use is asked for again, because istiod does not tell such a proxy of new endpoints of a service", FIELD(lookup_refresh), 100, 0},
    {"lookup-idle", "BRUMA_LOOKUP_IDLE", SETTING_DURATION, "10m", "with xds-on-demand: what no connection has needed for so long is unsubscribed from", FIELD(lookup_idle), 100, 0},
    {"max-lookups", "BRUMA_MAX_LOOKUPS", SETTING_NUMBER, "16384", "with xds-on-demand: addresses and names that are subscribed to; beyond that the one that has not been needed for the longest time is unsubscribed from", FIELD(max_lookups), 1, 1000000},
    {"stall-timeout", "BRUMA_STALL_TIMEOUT", SETTING_DURATION, "60s", "a stream of the control plane is opened anew if it makes no progress for so long although one side owes data", FIELD(stall_timeout), 1000, 3600000},
    {"xds-request-max", "BRUMA_XDS_REQUEST_MAX", SETTING_NUMBER, "4000000", "size limit in bytes of the first requests of a stream, which list the resources that the proxy has; what does not fit is sent again by the control plane (istiod accepts 4 MiB)", FIELD(xds_request_max), 0, 1073741824},
    {"xds-settle", "BRUMA_XDS_SETTLE", SETTING_DURATION, "10s", "after such a request: resources that the control plane has not mentioned for so long are removed", FIELD(xds_settle), 100, 3600000},
};
/* clang-format on */

const size_t proxy_settings_count = sizeof(proxy_settings_table) / sizeof(proxy_settings_table[0]);

/* ---- what the surroundings say ---- */

#define LOCAL_CONTROL   BRUMA_DEFAULT_RUN_DIR "/control"
#define CLUSTER_SECRETS "/var/run/secrets"

static void set_default(struct setting *table, const char *name, const char *text)
{
    for (size_t i = 0; text && i < proxy_settings_count; i++) {
        if (!strcmp(table[i].name, name))
            table[i].default_text = text;
    }
}

/* The contract's other name for a setting counts, if it is there. */
static void set_name(struct setting *table, const char *name, const char *env)
{
    for (size_t i = 0; getenv(env) && i < proxy_settings_count; i++) {
        if (!strcmp(table[i].name, name))
            table[i].env = env;
    }
}

static int count_workers(struct proxy_settings *s, char *error, size_t error_size)
{
    const struct worker_share share = {s->cpu_limit, s->cpu_request};
    long online = sysconf(_SC_NPROCESSORS_ONLN);
    unsigned long cpus = s->cpus ? s->cpus : online > 0 ? (unsigned long)online : 1;
    int r = worker_count(s->workers_text, cpus, &share, &s->workers);

    if (r < 0)
        snprintf(error, error_size, "workers: \"%.100s\" is not auto, a number or a percentage",
                 s->workers_text);
    return r;
}

static int choose_policy(struct proxy_settings *s, char *error, size_t error_size)
{
    int r = outbound_policy_parse(s->outbound_policy_text, &s->outbound_policy);

    if (r < 0)
        snprintf(error, error_size,
                 "outbound-traffic-policy: \"%.100s\" is neither ALLOW_ANY nor REGISTRY_ONLY",
                 s->outbound_policy_text);
    return r;
}

/* What the kernel carries is between the agent and the pods: to the proxy it is as a relay. */
static int choose_same_node(struct proxy_settings *s, char *error, size_t error_size)
{
    int r = same_node_parse(s->same_node_text, &s->same_node);

    if (r == 0 && s->same_node == SAME_NODE_KERNEL)
        r = -EINVAL;
    if (r < 0)
        snprintf(error, error_size, "same-node: \"%.100s\" is neither hbone nor relay", s->same_node_text);
    return r;
}

static int read_trust_domains(struct proxy_settings *s, char *error, size_t error_size)
{
    static struct trust_domains aliases; /* the settings point into it */
    int r;

    trust_domains_free(&aliases);
    r = trust_domains_parse(s->trust_domains_text, &aliases);
    s->trust_domains = aliases;
    if (r < 0)
        snprintf(error, error_size,
                 "trust-domain-aliases: \"%.100s\" is not a list of at most %d trust domains",
                 s->trust_domains_text, TRUST_DOMAINS_MAX);
    return r;
}

/* In the node ID a pod's name may be made up. */
static void name_resource(struct proxy_settings *s, bool cluster)
{
    s->otlp.cluster = cluster;
    s->otlp.node_name = s->node_name;
    s->otlp.pod_name = s->pod_name;
    s->otlp.pod_namespace = s->pod_namespace;
    s->otlp.cluster_name = s->cluster_id;
}

static int check_spire(const struct proxy_settings *s, char *error, size_t error_size)
{
    char wrong[256];

    if (*s->spire_socket != '/' || strlen(s->spire_socket) >= sizeof(((struct sockaddr_un *)0)->sun_path)) {
        snprintf(error, error_size,
                 "spire-socket: \"%.120s\" is no path of a socket, which identity-sources wants (spire)",
                 s->spire_socket);
        return -EINVAL;
    }
    if (spire_selectors_check(s->spire_selectors, wrong, sizeof(wrong)) == 0)
        return 0;
    snprintf(error, error_size, "spire-selectors: %s", wrong);
    return -EINVAL;
}

static int choose_sources(struct proxy_settings *s, char *error, size_t error_size)
{
    char wrong[256];
    int r = source_choice_parse(s->identity_sources_text, &s->identity_sources, wrong, sizeof(wrong));

    if (r < 0) {
        snprintf(error, error_size, "identity-sources: %s", wrong);
        return r;
    }
    if (source_choice_has(&s->identity_sources, SOURCE_FILES) && *s->identity_files != '/') {
        snprintf(error, error_size,
                 "identity-files: \"%.100s\" is no path of a directory, which identity-sources wants (files)",
                 s->identity_files);
        return -EINVAL;
    }
    return source_choice_has(&s->identity_sources, SOURCE_SPIRE) ? check_spire(s, error, error_size) : 0;
}

/* Time to end in is a little less than what the kubelet grants. */
static const char *drain_default(char *buf, size_t size)
{
    const char *granted = getenv("TERMINATION_GRACE_PERIOD_SECONDS");
    unsigned long ms, seconds;

    if (!granted || duration_parse(granted, &ms) < 0 || ms > 86400000)
        return NULL;
    seconds = ms / 1000;
    if (seconds > 10)
        seconds -= 5;
    else if (seconds > 1)
        seconds -= 1;
    else
        seconds = 1;
    snprintf(buf, size, "%lus", seconds);
    return buf;
}

/* ISTIO_META_DNS_CAPTURE, which is metadata of the node at the same time: any word but "true" is a no. */
static bool answers_dns(void)
{
    const char *dns = getenv("ISTIO_META_DNS_CAPTURE");

    return !dns || !strcasecmp(dns, "true");
}

int proxy_settings_load(const char *mesh_config_file, struct proxy_settings *ret, int argc, char **argv,
                        int *ret_first, char *error, size_t error_size)
{
    static struct mesh_config mesh; /* the settings point into it */
    static char drain[32];
    bool cluster = getenv("KUBERNETES_SERVICE_HOST") != NULL;
    const char *server = cluster ? "https://istiod.istio-system.svc:15012" : "https://localhost:15012";
    const char *roots = cluster ? CLUSTER_SECRETS "/istio/root-cert.pem" : LOCAL_CONTROL "/root-cert.pem";
    struct setting table[sizeof(proxy_settings_table) / sizeof(proxy_settings_table[0])];
    int r;

    mesh_config_free(&mesh);
    r = mesh_config_load(mesh_config_file, getenv("PROXY_CONFIG"), &mesh, error, error_size);
    if (r < 0)
        return r;
    memcpy(table, proxy_settings_table, sizeof(table));
    set_default(table, "xds-address", mesh.discovery_address ? mesh.discovery_address : server);
    set_default(table, "ca-address", server);
    set_default(table, "xds-root-ca", roots);
    set_default(table, "ca-root-ca", roots);
    set_default(table, "admin-port", mesh.admin_port);
    set_default(table, "metrics-port", mesh.stats_port);
    set_default(table, "workers", mesh.concurrency);
    if (mesh.outbound_policy != OUTBOUND_UNSAID)
        set_default(table, "outbound-traffic-policy", outbound_policy_name(mesh.outbound_policy));
    set_default(table, "trust-domain-aliases", mesh.trust_domain_aliases);
    set_default(table, "drain-deadline", drain_default(drain, sizeof(drain)));
    if (cluster)
        set_default(table, "replaced-linger", "15s");
    set_name(table, "cluster-id", "ISTIO_META_CLUSTER_ID");
    r = contract_settings_check(error, error_size);
    if (r == 0)
        r = settings_load(table, proxy_settings_count, ret, argc, argv, ret_first, error, error_size);
    if (r == 0 && !strcmp(ret->proxy_mode, "dedicated")) {
        /* Who makes the rules says which packets they leave alone, and whether answers to clients come back.
         */
        set_default(table, "packet-mark", "0");
        set_default(table, "original-source", "false");
        r = settings_load(table, proxy_settings_count, ret, argc, argv, ret_first, error, error_size);
    }
    name_resource(ret, cluster);
    if (r == 0)
        r = own_settings_derive(ret, error, error_size);
    if (r == 0)
        r = count_workers(ret, error, error_size);
    if (r == 0)
        r = choose_policy(ret, error, error_size);
    if (r == 0)
        r = choose_same_node(ret, error, error_size);
    if (r == 0)
        r = read_trust_domains(ret, error, error_size);
    if (r == 0)
        r = tls_policy_check(ret->compliance_policy, ret->tls12, error, error_size);
    if (r == 0)
        r = choose_sources(ret, error, error_size);
    if (r < 0)
        return r;
    ret->answers_dns = answers_dns();
    ret->cluster = cluster;
    ret->token_file = cluster ? CLUSTER_SECRETS "/tokens/istio-token" : LOCAL_CONTROL "/token";
    ret->metadata = mesh.metadata;
    return 0;
}

void proxy_settings_help(FILE *out)
{
    settings_help(proxy_settings_table, proxy_settings_count, out);
}

void proxy_settings_markdown(FILE *out)
{
    settings_markdown(proxy_settings_table, proxy_settings_count, out);
    fputs("\nOf these variables of ztunnel one value means what is done anyway, or none does; with another "
          "one the "
          "proxy does not start:\n\n| variable | accepted | why |\n|---|---|---|\n",
          out);
    contract_settings_markdown(out);
}
