/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The one list of reasons why something did not work. BPF counters, logs, metrics, `brumactl explain` and
 * docs/reasons.md are all made from it. Entries are only ever added at the end: pinned counters are indexed
 * by them.
 *
 * BRUMA_REASON(ID, name, flag, what, check)
 *   name   in logs, metrics and JSON
 *   flag   response_flags of the TCP metrics (contract: DENY, CONNECT, TLS_FAILURE, H2_HANDSHAKE_FAILURE,
 *          NETWORK_POLICY, IDENTITY_ERROR, CERT_REVOKED), or "-" where no connection is concerned
 *   what   what happened, for people
 *   check  what to look at
 */
#ifndef BRUMA_REASONS_H
#define BRUMA_REASONS_H

/* clang-format off */
#define BRUMA_REASONS(BRUMA_REASON) \
    BRUMA_REASON(NONE, "none", "-", "nothing failed", "") \
    /* steering, counted in the kernel */ \
    BRUMA_REASON(MARK_FAILED, "mark_failed", "CONNECT", "the connect hook could not mark the socket, so the connect() was refused", "kernel log; `bpftool map dump` of failures; try `brumactl doctor`") \
    BRUMA_REASON(REBIND_FAILED, "rebind_failed", "CONNECT", "the socket is bound to a device and could not be rebound (to lo, or off lo once the pod has left), so the connect() was refused", "the application's SO_BINDTODEVICE: the kernel lets only privileged processes rebind a bound socket") \
    BRUMA_REASON(LISTENER_MISSING, "listener_missing", "CONNECT", "no proxy listener is registered for the pod: a connection from outside was reset; one from the pod itself retries until it times out", "is the agent or the proxy running? `brumactl pods`") \
    BRUMA_REASON(POD_ENTRY_MISSING, "pod_entry_missing", "CONNECT", "the pod's capture is attached but its map entry is gone: its connect() was refused, or the connection from outside was reset", "the agent repairs this within seconds; `brumactl explain POD`") \
    BRUMA_REASON(ASSIGN_FAILED, "assign_failed", "CONNECT", "the kernel refused to hand the connection to the listener: one from outside was reset; one from the pod itself waits until it times out", "address family of the listener; `brumactl explain POD`") \
    /* enrollment */ \
    BRUMA_REASON(AGENT_NOT_READY, "agent_not_ready", "-", "the agent cannot decide yet; the runtime tries again", "agent log; is the mesh file readable?") \
    BRUMA_REASON(AGENT_UNREACHABLE, "agent_unreachable", "-", "the plugin cannot reach the agent's socket; the runtime tries again", "is bruma-agent running? run directory in the plugin's configuration") \
    BRUMA_REASON(PROXY_NOT_CONNECTED, "proxy_not_connected", "-", "no proxy has taken the pod's listeners yet", "is the node proxy running: bruma-proxy, or ztunnel if the agent runs with --zds-socket? With bruma-proxy, connections wait in the backlog; without a ztunnel, no pod is enrolled") \
    BRUMA_REASON(NETNS_UNUSABLE, "netns_unusable", "-", "the path does not lead to a network namespace that can be opened", "CNI_NETNS; has the pod died?") \
    BRUMA_REASON(NETNS_IS_HOST, "netns_is_host", "-", "the pod shares the node's network namespace and cannot be enrolled", "hostNetwork pods stay outside the mesh") \
    BRUMA_REASON(LISTENER_OPEN_FAILED, "listener_open_failed", "-", "a listener could not be opened in the pod", "file descriptor limit; the pod's sysctls") \
    BRUMA_REASON(ATTACH_FAILED, "attach_failed", "-", "the capture program could not be attached to the pod", "`brumactl doctor`; other sk_lookup programs: bpftool net, bpftool link") \
    BRUMA_REASON(ROUTE_SETUP_FAILED, "route_setup_failed", "-", "the rule or route to lo could not be added in the pod", "ip rule; ip route show table 100, in the pod") \
    BRUMA_REASON(SYSCTL_SETUP_FAILED, "sysctl_setup_failed", "-", "a sysctl of the pod could not be set", "is /proc/sys writable for the agent?") \
    BRUMA_REASON(MAP_UPDATE_FAILED, "map_update_failed", "-", "a BPF map could not be written", "is the pods map full? `bpftool map show`") \
    BRUMA_REASON(CGROUP_OCCUPIED, "cgroup_occupied", "-", "another program holds the connect hook of a parent cgroup exclusively", "`bpftool cgroup tree`; it must be attached with `multi`") \
    BRUMA_REASON(POD_ADDRESS_MISSING, "pod_address_missing", "-", "the pod has no address", "does bruma-cni come after the main plugin in the chain?") \
    /* capture found broken by verification, then repaired */ \
    BRUMA_REASON(LINK_DETACHED, "link_detached", "-", "the pod's program was found detached", "who ran `bpftool link detach`? It has been attached again") \
    BRUMA_REASON(RULE_MISSING, "rule_missing", "-", "the pod's ip rule was found missing", "who changed the pod's rules? It has been put back") \
    BRUMA_REASON(ROUTE_MISSING, "route_missing", "-", "the pod's route table 100 was found incomplete", "who changed the pod's routes? It has been put back") \
    BRUMA_REASON(SYSCTL_CHANGED, "sysctl_changed", "-", "a sysctl of the pod was found changed", "who changed it? It has been set again") \
    BRUMA_REASON(LISTENER_CLOSED, "listener_closed", "-", "a listener of the pod, or of the programs themselves, was found closed", "who closed it (`ss -K`)? A new one has been opened") \
    BRUMA_REASON(MAP_ENTRY_MISSING, "map_entry_missing", "-", "the pod's map entry was found missing or wrong", "who wrote the map? It has been written again") \
    BRUMA_REASON(CGROUP_LINK_DETACHED, "cgroup_link_detached", "-", "the connect hooks were found detached from the cgroup", "was the cgroup removed? They have been attached again") \
    /* connections, in the proxy */ \
    BRUMA_REASON(POLICY_DENIED, "policy_denied", "DENY", "an authorization policy refused the connection", "`brumactl policy`; the error text names the policy") \
    BRUMA_REASON(POLICY_CHANGED, "policy_changed", "DENY", "a policy change ended a connection that had been allowed", "`brumactl policy`") \
    BRUMA_REASON(SELF_CALL, "self_call", "CONNECT", "the destination is one of the proxy's own ports", "the client's address and port") \
    BRUMA_REASON(SOURCE_UNKNOWN, "source_unknown", "CONNECT", "the pod is not known to the control plane yet", "`brumactl status`: is xDS connected? does the workload exist?") \
    BRUMA_REASON(NO_HEALTHY_UPSTREAM, "no_healthy_upstream", "CONNECT", "the service has no usable endpoint", "endpoints and their health; ports of the service") \
    BRUMA_REASON(WAYPOINT_UNRESOLVED, "waypoint_unresolved", "CONNECT", "the destination requires a waypoint and none can be found", "is the waypoint running and known? `brumactl explain`") \
    BRUMA_REASON(GATEWAY_UNRESOLVED, "gateway_unresolved", "CONNECT", "the destination is in another network and no gateway can be found", "network gateways") \
    BRUMA_REASON(CONNECT_REFUSED, "connect_refused", "CONNECT", "the destination refused the connection", "is the application listening on that port?") \
    BRUMA_REASON(CONNECT_TIMEOUT, "connect_timeout", "CONNECT", "the destination did not answer in time", "network policy, routes, the destination node") \
    BRUMA_REASON(CONNECT_UNREACHABLE, "connect_unreachable", "CONNECT", "there is no route to the destination", "routes of the pod and the node") \
    BRUMA_REASON(CONNECT_FAILED, "connect_failed", "CONNECT", "the connection could not be made", "the error text") \
    BRUMA_REASON(HBONE_BLOCKED, "hbone_blocked", "NETWORK_POLICY", "port 15008 of the destination did not answer in time", "a network policy or firewall that blocks port 15008") \
    BRUMA_REASON(TLS_HANDSHAKE_FAILED, "tls_handshake_failed", "TLS_FAILURE", "the TLS handshake failed", "the error text; certificates: `brumactl identities`") \
    BRUMA_REASON(TLS_HANDSHAKE_TIMEOUT, "tls_handshake_timeout", "TLS_FAILURE", "the TLS handshake did not finish in time", "load of the peer; is something other than a mesh proxy listening on port 15008?") \
    BRUMA_REASON(PEER_UNTRUSTED, "peer_untrusted", "IDENTITY_ERROR", "the peer's certificate is not signed by a trusted root, or is not valid now", "roots and clocks; `brumactl identities`") \
    BRUMA_REASON(PEER_IDENTITY_MISMATCH, "peer_identity_mismatch", "IDENTITY_ERROR", "the peer's SPIFFE identity is not the expected one", "service accounts of the destination's pods; stale endpoints") \
    BRUMA_REASON(PEER_TRUST_DOMAIN, "peer_trust_domain", "IDENTITY_ERROR", "the peer belongs to another trust domain, or the roots of its own have changed since its tunnel was opened", "the trust domains of both meshes; `--federated-bundles`") \
    BRUMA_REASON(CERTIFICATE_REVOKED, "certificate_revoked", "CERT_REVOKED", "the peer's certificate is revoked", "the CRL") \
    BRUMA_REASON(IDENTITY_UNAVAILABLE, "identity_unavailable", "IDENTITY_ERROR", "there is no certificate for the pod yet", "is the CA reachable? `brumactl identities`") \
    BRUMA_REASON(HTTP2_ERROR, "http2_error", "H2_HANDSHAKE_FAILURE", "the peer broke the HTTP/2 protocol, or the tunnel was lost", "the error text; the peer's log") \
    BRUMA_REASON(CONNECT_REJECTED, "connect_rejected", "CONNECT", "the peer's proxy answered CONNECT with an error status", "401: a policy of the destination; 503: its application; the peer's log") \
    BRUMA_REASON(CONNECT_ANSWER_TIMEOUT, "connect_answer_timeout", "CONNECT", "the peer's proxy did not answer CONNECT in time", "load of the peer's node") \
    BRUMA_REASON(BAD_AUTHORITY, "bad_authority", "CONNECT", "the CONNECT request names no valid destination of this pod", "the client of the tunnel") \
    BRUMA_REASON(BAD_METHOD, "bad_method", "CONNECT", "the tunnel carried a request that is not CONNECT", "the client of the tunnel") \
    BRUMA_REASON(PEER_RESET, "peer_reset", "CONNECT", "the peer reset the connection", "the application at the other end") \
    BRUMA_REASON(IDLE_HALF_CLOSED, "idle_half_closed", "-", "one side had closed its direction and the other was silent for too long", "an application that never closes") \
    BRUMA_REASON(TUNNEL_PING_TIMEOUT, "tunnel_ping_timeout", "H2_HANDSHAKE_FAILURE", "the peer's proxy did not answer a PING in time", "did the peer's pod or node die?") \
    BRUMA_REASON(POD_REMOVED, "pod_removed", "-", "the pod was removed", "") \
    BRUMA_REASON(DRAIN_DEADLINE, "drain_deadline", "-", "the proxy was shutting down and the connection was still open at the deadline", "termination grace period") \
    BRUMA_REASON(OUT_OF_RESOURCES, "out_of_resources", "CONNECT", "no memory, file descriptors or ports were left", "limits of bruma-proxy and bruma-agent; ephemeral ports of the pod") \
    BRUMA_REASON(INTERNAL, "internal", "CONNECT", "an internal error", "please report it with the log line") \
    /* control plane and configuration */ \
    BRUMA_REASON(XDS_UNREACHABLE, "xds_unreachable", "-", "the control plane cannot be reached; the last known state stays in use", "XDS_ADDRESS, its certificate, the token") \
    BRUMA_REASON(XDS_RESOURCE_REJECTED, "xds_resource_rejected", "-", "a resource from the control plane could not be used", "the resource named in the log; versions of both sides") \
    BRUMA_REASON(CA_UNREACHABLE, "ca_unreachable", "-", "the certificate authority cannot be reached", "CA_ADDRESS, its certificate, the token") \
    BRUMA_REASON(CA_REFUSED, "ca_refused", "-", "the certificate authority refused a request", "is the pod on this node? the CA's log") \
    BRUMA_REASON(MESH_FILE_INVALID, "mesh_file_invalid", "-", "the mesh file has an error; the last good state stays in use", "the log names file, line and field") \
    BRUMA_REASON(MESSAGE_INVALID, "message_invalid", "-", "a message on the agent's socket could not be understood", "versions of agent, proxy and plugin") \
    BRUMA_REASON(CRL_INVALID, "crl_invalid", "-", "the revocation lists cannot be used; the last good ones stay in force, and if there are none, `--crl-required` decides", "CRL_PATH; `openssl crl -in FILE -noout -text`") \
    /* cluster */ \
    BRUMA_REASON(API_UNREACHABLE, "api_unreachable", "-", "the Kubernetes API cannot be watched; the last known state of pods stays in use", "agent log; the API server's address, its CA, the token, RBAC of the agent's service account") \
    BRUMA_REASON(NETNS_NOT_FOUND, "netns_not_found", "-", "the network namespace of a running pod cannot be found", "CNI cache directory, CRI socket and /proc as the agent sees them; the pod is found when it is recreated") \
    BRUMA_REASON(ANNOTATION_FAILED, "annotation_failed", "-", "the pod's annotation ambient.istio.io/redirection cannot be written, so the control plane does not know its state", "RBAC: the agent patches pods/status") \
    BRUMA_REASON(KUBELET_NOT_FOUND, "kubelet_not_found", "-", "the kubelet's cgroup cannot be found, so its probes are subject to policy like any connection", "does the kubelet run, in a cgroup of its own? `--probe-cgroup`") \
    BRUMA_REASON(CNI_CONF_MISSING, "cni_conf_missing", "-", "there is no network configuration yet that the container runtime could load", "the main CNI plugin; `--cni-conf-dir`; the log names files that are not JSON") \
    BRUMA_REASON(CNI_INSTALL_FAILED, "cni_install_failed", "-", "the plugin or its entry could not be written", "permissions and free space of the directories that the log names") \
    BRUMA_REASON(CNI_CONF_CONTESTED, "cni_conf_contested", "-", "another program keeps removing the plugin's entry, or keeps the file open for writing", "other CNI agents that own the directory exclusively") \
    /* more of connections, in the proxy */ \
    BRUMA_REASON(POLICY_MISSING, "policy_missing", "DENY", "a policy that the pod's workload names did not arrive in time", "`xds_resource_rejected` in the proxy's log; the control plane's log; the error text names the policy") \
    /* the agent's own start */ \
    BRUMA_REASON(PIN_DIR_UNUSABLE, "pin_dir_unusable", "-", "the pin directory cannot be used, so the agent does not start", "`--pin-dir`: a directory in a BPF file system (`mount -t bpf bpf /sys/fs/bpf`), writable for root") \
    BRUMA_REASON(CGROUP_UNUSABLE, "cgroup_unusable", "-", "the pods' cgroup cannot be used, so the agent does not start", "`--cgroup`: a directory of the cgroup2 hierarchy above all pods; `grep cgroup2 /proc/mounts` says where that is mounted") \
    BRUMA_REASON(PINS_IN_USE, "pins_in_use", "-", "another agent uses the same pin directory, so this one does not start", "is bruma-agent running already? `systemctl status bruma-agent`; `brumactl status`") \
    BRUMA_REASON(PINS_OTHER_VERSION, "pins_other_version", "-", "the pinned maps come from a version with another layout, so the agent does not start; what is pinned keeps working", "run `bruma-agent --uninstall` of that version, then start this one; running pods are outside the mesh in between") \
    /* never outside the mesh unnoticed */ \
    BRUMA_REASON(POD_UNDECIDED, "pod_undecided", "CONNECT", "the guard was closed and the agent had not decided about the pod yet: its connect() was refused, or a connection to it was held back", "is the agent running, and does it reach the API server? `brumactl status`; `--guard`") \
    BRUMA_REASON(GUARD_FAILED, "guard_failed", "-", "the guard cannot be closed: a pod can use the network before it is captured", "agent log; `--guard-cgroup`; `brumactl doctor`") \
    BRUMA_REASON(GUARD_GAVE_UP, "guard_gave_up", "-", "the guard opened at its time limit although some pods were still undecided", "`brumactl status`: what kept the agent from deciding? With `--guard=strict` it stays closed") \
    BRUMA_REASON(CAPTURED_LATE, "captured_late", "-", "a pod of the mesh ran for a while before it was captured; connections that it opened in that time remain uncaptured", "was bruma-cni in the CNI chain when the pod started? `cni.istioOwnedCNIConfig`; recreate the pod to be sure") \
    BRUMA_REASON(PROBE_NOT_REGISTERED, "probe_not_registered", "-", "a probe of the kubelet could not be registered in the kernel, so it is subject to policy like any connection", "kernel log; please report it") \
    BRUMA_REASON(KUBELET_CGROUP_SHARED, "kubelet_cgroup_shared", "-", "other processes run in the kubelet's cgroup: their connections to declared probe ports pass like the kubelet's", "the error text names the processes; give the kubelet a unit of its own, or set `--probe-cgroup`") \
    /* node proxies of somebody else, on the workload discovery socket */ \
    BRUMA_REASON(PROXY_AWAY, "proxy_away", "-", "the node proxy that served the pod is gone: the pod's connections are dropped until one is back", "is the node proxy (ztunnel) running, and connected to the socket that `--zds-socket` names? `brumactl status`") \
    BRUMA_REASON(PROXY_REFUSED_POD, "proxy_refused_pod", "-", "the node proxy refused to serve the pod", "the error text and the proxy's log; does a process in the pod use port 15001, 15006 or 15008?") \
    BRUMA_REASON(PROXY_LISTENERS_MISSING, "proxy_listeners_missing", "-", "the node proxy says that it serves the pod, but its listeners were not found there", "ENABLE_PROXY of the node proxy; does the agent see its process (hostPID), and may it inspect it (CAP_SYS_PTRACE)?") \
    BRUMA_REASON(PROXY_CGROUP, "proxy_cgroup", "-", "the node proxy was refused: its cgroup does not distinguish its connections from those of pods", "it needs a cgroup of its own below the agent's `--cgroup`, and the agent must see its process (hostPID)") \
    BRUMA_REASON(ZDS_PROTOCOL, "zds_protocol", "-", "the node proxy broke the protocol on the workload discovery socket, or did not answer in time; it was disconnected", "the error text; load of the node; the proxy's log") \
    BRUMA_REASON(DNS_NOT_SERVED, "dns_not_served", "-", "the CNI agent may capture DNS in its pods, and this proxy is configured not to answer it (ISTIO_META_DNS_CAPTURE)", "turn DNS capture off: ambient.dnsCapture=false for istio-cni; or unset ISTIO_META_DNS_CAPTURE for the proxy") \
    BRUMA_REASON(LOOPBACK_DOWN, "loopback_down", "-", "the pod's loopback device is down, so captured connections cannot pass; the runtime does that when it tears a pod down", "if the pod is not being removed: `ip link set lo up` in its network namespace; the agent then repairs what was lost with the device") \
    /* peers that break rules or want too much */ \
    BRUMA_REASON(KEY_UPDATE_FLOOD, "key_update_flood", "TLS_FAILURE", "the peer sent many TLS key updates with hardly any data in between, so its tunnel was closed", "what runs on the peer's node; `--key-updates`") \
    BRUMA_REASON(PEER_IDENTITY_AMBIGUOUS, "peer_identity_ambiguous", "IDENTITY_ERROR", "the peer's certificate has more than one URI name; a SPIFFE certificate has exactly one", "who signed it? The identity is in the error text") \
    /* ports, connections and descriptors that run out, in the proxy */ \
    BRUMA_REASON(CLIENT_ADDRESS_HIDDEN, "client_address_hidden", "-", "no port was left for the client's address, so the application sees the pod's own address instead", "how many connections does that client have open? `net.ipv4.ip_local_port_range` and `net.ipv4.tcp_timestamps` of the pod") \
    /* what a pod's own doings keep from being put right */ \
    BRUMA_REASON(POD_ADDRESS_UNUSABLE, "pod_address_unusable", "-", "an address of the pod cannot be used in its network namespace: it was removed from its device, or duplicate address detection is still running or has failed; what needs it cannot be set up and is retried", "`ip address` in the pod: does it list the address that `brumactl pods` shows, neither tentative nor dadfailed? Who removed it?") \
    BRUMA_REASON(CAPTURE_UNVERIFIED, "capture_unverified", "-", "the capture of the pod cannot be verified", "the error text; `ip rule | wc -l` and `ip route show table 100 | wc -l` in the pod; file descriptor limit of bruma-agent") \
    /* servers of the programs themselves */ \
    BRUMA_REASON(SERVER_CROWDED, "server_crowded", "-", "a server for pages or for the built-in control plane had too many connections, in all or from one source; an idle one was closed to admit a new one", "who holds them? `ss -tnp` for that port and the source that the log names; the settings of server connections") \
    BRUMA_REASON(CALL_STALLED, "call_stalled", "-", "a call to or from the control plane made no progress for too long although the peer answers PINGs, and was reset", "load of the control plane; `--stall-timeout`; what lies between the two") \
    BRUMA_REASON(XDS_REQUEST_BOUNDED, "xds_request_bounded", "-", "the request to the control plane would be too long, so it does not list every resource that the proxy has; those that the answer does not mention are removed once it has settled", "nothing, if it settles: `bruma_xds_let_go_total`; `--xds-request-max`, `--xds-settle`") \
    /* ends of connections, in the proxy */ \
    BRUMA_REASON(LAST_BYTES_UNDELIVERED, "last_bytes_undelivered", "-", "one side of a connection had closed, and the other stopped reading what had been sent before; the rest was dropped", "an application that does not read; `--linger-timeout`") \
    BRUMA_REASON(KUBELET_REFUSED, "kubelet_refused", "-", "a process has the kubelet's name but is not trusted to be it: its connections are subject to policy", "the log names the process: who started it? The kubelet runs as root, and only root may write its program") \
    BRUMA_REASON(ADMIN_REFUSED, "admin_refused", "-", "a request to the proxy's admin pages was refused: not from root, for another host name, from a foreign web page, or over TCP where only the Unix socket is allowed", "the text of the answer; `brumactl`, or `curl --unix-socket` with proxy.sock of the run directory, as root") \
    BRUMA_REASON(PEER_EXPIRED, "peer_expired", "IDENTITY_ERROR", "the certificate of the tunnel's peer, or one in its chain, has expired since the tunnel was opened: it takes no new connection", "does the peer renew its certificates? `brumactl identities` there; clocks of both nodes") \
    /* addresses, numbers and options that others choose */ \
    BRUMA_REASON(NOT_OF_POD, "not_of_pod", "CONNECT", "the destination is not a local address of the pod, and nothing is delivered to it", "who routes that address to the pod? `ip route get ADDRESS` in the pod") \
    BRUMA_REASON(NUMBER_TAKEN, "number_taken", "-", "a number that capture needs in the pod (mark 0x111/0xfff, a routing table from 100 on, a rule priority before all others) is already in use; nothing was changed, and the pod is not enrolled", "the error text; `ip rule` and `ip route show table all` in the pod") \
    BRUMA_REASON(ROUTING_OPTION, "routing_option", "CONNECT", "a process of the pod set a route on a TCP socket (IPv6 routing header, IPv4 source route), by which connections could leave the pod uncaptured and in plaintext: the option was refused, or the connect() of a socket that already had it", "which program sets IPV6_RTHDR or IP_OPTIONS: `strace -e trace=setsockopt`") \
    BRUMA_REASON(MEMORY_BUDGET, "memory_budget", "CONNECT", "too much data was buffered for slow readers; this connection held most, or needed more than was left", "who does not read? The application at that end; `bruma_buffered_bytes`; `--memory-budget`, `--pod-memory-budget`") \
    BRUMA_REASON(POD_FORWARDS, "pod_forwards", "-", "the pod forwards traffic of others (a virtual machine, containers in the pod), which the hooks do not see: its own connections are captured, and it is not announced as part of the mesh", "the error text names the device; with `--forwarding-look=0` such pods are announced all the same") \
    BRUMA_REASON(LOG_NOT_READ, "log_not_read", "-", "the program's log was not read for a while: lines beyond 256 KiB were dropped instead of blocking the program", "what reads its stderr or stdout (journald, the container runtime, a pipe), and its load") \
    BRUMA_REASON(REVOCATION_UNKNOWN, "revocation_unknown", "IDENTITY_ERROR", "revocation lists are required, and none has been read since the proxy started: every peer is refused", "`crl_invalid` in the proxy's log; CRL_PATH; with `--crl-required=false` the proxy serves meanwhile, and no certificate counts as revoked") \
    BRUMA_REASON(ACCEPTED_NOT_BOUND, "accepted_not_bound", "-", "an accepted connection could not be bound to the device that it arrived on; another one from the same client and port may hang", "kernel log; please report it") \
    BRUMA_REASON(FAMILY_UNREACHABLE, "family_unreachable", "-", "the pod has no address of the destination's family, so connect() failed at once with ENETUNREACH, as it does outside the mesh", "nothing, if clients try IPv6 first in an IPv4 cluster; otherwise the pod's addresses") \
    BRUMA_REASON(HANDSHAKE_EVICTED, "handshake_evicted", "TLS_FAILURE", "too many TLS handshakes were under way at once, and this was the oldest", "who connects to port 15008 and sends nothing? `--max-pod-handshakes`, `--max-handshakes`") \
    BRUMA_REASON(POD_DESCRIPTORS, "pod_descriptors", "CONNECT", "the pod has reached the limit of connections for one pod", "who holds them? `brumactl connections`; `--max-pod-descriptors`, the descriptor limit of bruma-proxy") \
    BRUMA_REASON(PEER_CONNECTIONS, "peer_connections", "CONNECT", "the client has reached the limit of connections to the pod from one address", "`brumactl connections`; `--max-peer-connections`") \
    /* DNS queries, in the proxy */ \
    BRUMA_REASON(DNS_SERVER_SILENT, "dns_server_silent", "-", "a DNS server that a pod queried did not answer in time; the pod got SERVFAIL", "the servers in the pod's /etc/resolv.conf; network policies for port 53; `--dns-timeout`") \
    BRUMA_REASON(DNS_SERVER_UNREACHABLE, "dns_server_unreachable", "-", "a DNS server that a pod queried is unreachable (ICMP, or no route); the pod got SERVFAIL", "the error text (log scope dns=debug); the servers in the pod's /etc/resolv.conf") \
    BRUMA_REASON(DNS_SERVER_UNKNOWN, "dns_server_unknown", "-", "netfilter rules redirected a DNS query and conntrack does not know its destination; the proxy's own server is queried", "kernel module nf_conntrack_netlink; rules of the CNI agent") \
    BRUMA_REASON(DNS_POD_QUERIES, "dns_pod_queries", "-", "the pod has reached the limit of forwarded DNS queries for one pod; it got SERVFAIL", "who sends that many, or does its server not answer? `--max-pod-dns-queries`") \
    BRUMA_REASON(DNS_QUERIES, "dns_queries", "-", "a worker has reached its limit of forwarded DNS queries; the pod got SERVFAIL", "who sends that many? istio_dns_requests_total; `--max-dns-queries`") \
    BRUMA_REASON(DNS_ANSWER_LOST, "dns_answer_lost", "-", "a DNS answer could not be sent to the pod", "the error text (log scope dns=debug); kernel memory for sockets") \
    /* hostnames of workloads, in the proxy */ \
    BRUMA_REASON(NAME_NOT_FOUND, "name_not_found", "CONNECT", "the destination's workload has a hostname, and DNS has no address for it", "`dig` from the proxy's network namespace; the ServiceEntry's host and endpoints; DNS servers of the proxy (`--name-servers`, /etc/resolv.conf)") \
    BRUMA_REASON(NAME_SERVER_FAILED, "name_server_failed", "CONNECT", "the destination's workload has a hostname, and the DNS servers refused the query, failed or cannot be reached", "the error text; DNS servers of the proxy (`--name-servers`, /etc/resolv.conf)") \
    BRUMA_REASON(NAME_TIMEOUT, "name_timeout", "CONNECT", "the destination's workload has a hostname, and no DNS server answered in time", "DNS servers of the proxy (`--name-servers`, /etc/resolv.conf); network policies for port 53; `--name-timeout`") \
    BRUMA_REASON(NAME_QUERIES, "name_queries", "CONNECT", "too many hostnames of workloads are being resolved at once", "do the DNS servers answer? `--max-name-queries`") \
    BRUMA_REASON(NAME_ADDRESS_REFUSED, "name_address_refused", "CONNECT", "the hostname of the destination's workload has only addresses that are never used: loopback, link-local, multicast", "who answers for that name? `dig` from the proxy's network namespace") \
    BRUMA_REASON(LOOKUP_TIMEOUT, "lookup_timeout", "CONNECT", "the destination or its waypoint was asked of the control plane (XDS_ON_DEMAND), and no answer came in time", "is the control plane there? `xds_unreachable` in the log; `--lookup-timeout`") \
    BRUMA_REASON(LOOKUP_LIMIT, "lookup_limit", "CONNECT", "too many addresses and names are being asked of the control plane at once (XDS_ON_DEMAND)", "does the control plane answer? `--max-lookups`") \
    /* the outbound traffic policy */ \
    BRUMA_REASON(DESTINATION_UNKNOWN, "destination_unknown", "DENY", "the mesh does not know the destination, and the outbound traffic policy of the pod is REGISTRY_ONLY", "a ServiceEntry for the destination, or the annotation bruma.io/outbound-traffic-policy of the pod or its namespace; `brumactl explain POD IP:PORT`") \
    /* pods with sidecars beside the mesh */ \
    BRUMA_REASON(PLAINTEXT_RESET, "plaintext_reset", "CONNECT", "the destination, a workload that is not spoken HBONE to, reset a plaintext connection without answering: it may accept mutual TLS only (a sidecar under PeerAuthentication STRICT)", "the destination's PeerAuthentication; a sidecar accepts HBONE if its pod has the label networking.istio.io/tunnel=http") \
    BRUMA_REASON(MESH_CONFIG_INVALID, "mesh_config_invalid", "-", "Istio's mesh configuration could not be read; the last good one stays in force, and without one REGISTRY_ONLY", "the error text; key mesh of the ConfigMap istio (`--mesh-config`)") \
    BRUMA_REASON(ANNOTATION_INVALID, "annotation_invalid", "-", "an annotation has a value that cannot be used: it excludes nothing from capture, and an outbound traffic policy that is no policy counts as REGISTRY_ONLY", "the error text names the annotation and the value") \
    /* destinations in other networks, in the proxy */ \
    BRUMA_REASON(GATEWAY_NAMES_MISSING, "gateway_names_missing", "IDENTITY_ERROR", "the destination is in another network, and its service does not say which identities to expect there", "subject alternative names of the service, which the control plane takes from the other cluster: does it see that cluster?") \
    BRUMA_REASON(GATEWAY_REJECTED, "gateway_rejected", "CONNECT", "the east-west gateway refused the connection: its answer to CONNECT was 400, 401 or 403", "policies of the gateway, which judge the calling pod; the gateway's log") \
    BRUMA_REASON(GATEWAY_UNAVAILABLE, "gateway_unavailable", "CONNECT", "the east-west gateway could not pass the connection on: it does not know the service, or no endpoint of it answered", "is the service global (istio.io/global) in both clusters, with endpoints there? The gateway's log") \
    /* live connections that move between proxies */ \
    BRUMA_REASON(HAND_OVER_REFUSED, "hand_over_refused", "-", "a process that is neither root's nor of the proxy's user was found at the socket where proxies meet to hand over live connections; it was given and believed nothing", "who may write in the directory of `--hand-over-socket`? The log names user and process") \
    /* identities that do not come from the CA */ \
    BRUMA_REASON(IDENTITY_FILE_INVALID, "identity_file_invalid", "-", "the files of an identity (tls.crt, tls.key, ca.crt) cannot be read, or do not fit together or the identity; the last good ones stay in use", "the error text; the directory that `--identity-files` leads to for this identity; `brumactl identities`") \
    BRUMA_REASON(BUNDLE_INVALID, "bundle_invalid", "-", "the roots of a trust domain cannot be used; the last good ones stay in force", "the error text; `--federated-bundles`, or the bundles of the SPIRE server") \
    BRUMA_REASON(SPIRE_UNREACHABLE, "spire_unreachable", "-", "SPIRE's agent could not be reached, has ended a stream or does not answer; certificates that there are serve until their end", "is the agent of this node running? `--spire-socket`, and who may use it; without an SVID of an entry that it knows the agent is silent: its log") \
    BRUMA_REASON(SPIRE_REFUSED, "spire_refused", "-", "SPIRE's agent refused a request", "has SPIRE an entry that matches this proxy, and is its SPIFFE ID among authorized_delegates of the agent? The agent's log") \
    BRUMA_REASON(SPIRE_NO_ENTRY, "spire_no_entry", "-", "SPIRE has no entry for an identity whose selectors match; a certificate that there was is not used any more", "the entries of the identity (`spire-server entry show -spiffeID ...`), their selectors and parent; `--spire-selectors`") \
    BRUMA_REASON(SVID_INVALID, "svid_invalid", "-", "what SPIRE's agent has sent for an identity cannot be used: it is damaged, or does not fit its key, the identity or the roots; the last good one stays in use", "the error text; the agent's log; `brumactl identities`")

enum bruma_reason {
#define BRUMA_REASON_ENUM(id, name, flag, what, check) BRUMA_REASON_##id,
    BRUMA_REASONS(BRUMA_REASON_ENUM)
#undef BRUMA_REASON_ENUM
    BRUMA_REASON_COUNT
};
/* clang-format on */

#endif
