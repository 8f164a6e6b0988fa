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
    BRUMA_REASON(REBIND_FAILED, "rebind_failed", "CONNECT", "the socket is bound to a device and could not be moved (to lo, or away from it once the pod has left), so the connect() was refused", "the application's SO_BINDTODEVICE: the kernel lets only privileged processes have a bound socket moved") \
    BRUMA_REASON(LISTENER_MISSING, "listener_missing", "CONNECT", "no proxy listener is registered for the pod: a connection from outside was reset, one of the pod itself waits and tries again until it times out", "is the agent or the proxy running? `brumactl pods`") \
    BRUMA_REASON(POD_ENTRY_MISSING, "pod_entry_missing", "CONNECT", "the pod's capture is attached but its map entry is gone: its connect() was refused, or the connection from outside was reset", "the agent repairs this within seconds; `brumactl explain POD`") \
    BRUMA_REASON(ASSIGN_FAILED, "assign_failed", "CONNECT", "the kernel refused to hand the connection to the listener: from outside it was reset, one of the pod itself waits until it times out", "address family of the listener; `brumactl explain POD`") \
    /* enrollment */ \
    BRUMA_REASON(AGENT_NOT_READY, "agent_not_ready", "-", "the agent cannot decide yet; the runtime tries again", "agent log; is the mesh file readable?") \
    BRUMA_REASON(AGENT_UNREACHABLE, "agent_unreachable", "-", "the plugin cannot reach the agent's socket; the runtime tries again", "is bruma-agent running? run directory in the plugin's configuration") \
    BRUMA_REASON(PROXY_NOT_CONNECTED, "proxy_not_connected", "-", "no proxy has taken the pod's listeners yet", "is the node proxy running: bruma-proxy, or ztunnel where the agent has --zds-socket? connections wait in bruma-proxy's backlog; without a ztunnel no pod is enrolled") \
    BRUMA_REASON(NETNS_UNUSABLE, "netns_unusable", "-", "the pod's network namespace cannot be opened or is not one", "CNI_NETNS; has the pod died?") \
    BRUMA_REASON(NETNS_IS_HOST, "netns_is_host", "-", "the pod shares the node's network namespace and cannot be enrolled", "hostNetwork pods stay outside the mesh") \
    BRUMA_REASON(LISTENER_OPEN_FAILED, "listener_open_failed", "-", "a listener could not be opened in the pod", "file descriptor limit; the pod's sysctls") \
    BRUMA_REASON(ATTACH_FAILED, "attach_failed", "-", "the capture program could not be attached to the pod", "`brumactl doctor`; other sk_lookup programs: bpftool net, bpftool link") \
    BRUMA_REASON(ROUTE_SETUP_FAILED, "route_setup_failed", "-", "the rule or route to lo could not be set in the pod", "ip rule; ip route show table 100, in the pod") \
    BRUMA_REASON(SYSCTL_SETUP_FAILED, "sysctl_setup_failed", "-", "a sysctl of the pod could not be set", "is /proc/sys writable for the agent?") \
    BRUMA_REASON(MAP_UPDATE_FAILED, "map_update_failed", "-", "a BPF map could not be written", "is the pods map full? `bpftool map show`") \
    BRUMA_REASON(CGROUP_OCCUPIED, "cgroup_occupied", "-", "another program holds the connect hook of a parent cgroup exclusively", "`bpftool cgroup tree`; it must be attached with multi") \
    BRUMA_REASON(POD_ADDRESS_MISSING, "pod_address_missing", "-", "the pod has no address", "is bruma-cni after the main plugin in the chain?") \
    /* capture found broken by verification, then repaired */ \
    BRUMA_REASON(LINK_DETACHED, "link_detached", "-", "the pod's program was found detached", "who ran `bpftool link detach`? it has been attached again") \
    BRUMA_REASON(RULE_MISSING, "rule_missing", "-", "the pod's ip rule was found missing", "who changed the pod's rules? it has been put back") \
    BRUMA_REASON(ROUTE_MISSING, "route_missing", "-", "the pod's route table 100 was found incomplete", "who changed the pod's routes? it has been put back") \
    BRUMA_REASON(SYSCTL_CHANGED, "sysctl_changed", "-", "a sysctl of the pod was found changed", "who changed it? it has been set again") \
    BRUMA_REASON(LISTENER_CLOSED, "listener_closed", "-", "a listener of the pod, or of the programs themselves, was found closed", "who closed it (ss -K)? a new one has been opened") \
    BRUMA_REASON(MAP_ENTRY_MISSING, "map_entry_missing", "-", "the pod's map entry was found missing or wrong", "who wrote the map? it has been written again") \
    BRUMA_REASON(CGROUP_LINK_DETACHED, "cgroup_link_detached", "-", "the connect hooks were found detached from the cgroup", "was the cgroup removed? they have been attached again") \
    /* connections, in the proxy */ \
    BRUMA_REASON(POLICY_DENIED, "policy_denied", "DENY", "an authorization policy refused the connection", "`brumactl policy`; the policy is named beside this reason") \
    BRUMA_REASON(POLICY_CHANGED, "policy_changed", "DENY", "the connection was allowed once and a policy change ended it", "`brumactl policy`") \
    BRUMA_REASON(SELF_CALL, "self_call", "CONNECT", "the destination is one of the proxy's own ports", "the client's address and port") \
    BRUMA_REASON(SOURCE_UNKNOWN, "source_unknown", "CONNECT", "the pod is not known to the control plane yet", "`brumactl status`: is xDS connected? does the workload exist?") \
    BRUMA_REASON(NO_HEALTHY_UPSTREAM, "no_healthy_upstream", "CONNECT", "the service has no endpoint that can be used", "endpoints and their health; ports of the service") \
    BRUMA_REASON(WAYPOINT_UNRESOLVED, "waypoint_unresolved", "CONNECT", "the destination wants a waypoint and none can be found", "is the waypoint running and known? `brumactl explain`") \
    BRUMA_REASON(GATEWAY_UNRESOLVED, "gateway_unresolved", "CONNECT", "the destination is in another network and no gateway can be found", "network gateways") \
    BRUMA_REASON(CONNECT_REFUSED, "connect_refused", "CONNECT", "the destination refused the connection", "is the application listening on that port?") \
    BRUMA_REASON(CONNECT_TIMEOUT, "connect_timeout", "CONNECT", "the destination did not answer in time", "network policy, routes, the destination node") \
    BRUMA_REASON(CONNECT_UNREACHABLE, "connect_unreachable", "CONNECT", "there is no route to the destination", "routes of the pod and the node") \
    BRUMA_REASON(CONNECT_FAILED, "connect_failed", "CONNECT", "the connection could not be made", "the error text") \
    BRUMA_REASON(HBONE_BLOCKED, "hbone_blocked", "NETWORK_POLICY", "port 15008 of the destination did not answer in time", "a network policy or firewall that blocks port 15008") \
    BRUMA_REASON(TLS_HANDSHAKE_FAILED, "tls_handshake_failed", "TLS_FAILURE", "the TLS handshake failed", "the error text; certificates: `brumactl identities`") \
    BRUMA_REASON(TLS_HANDSHAKE_TIMEOUT, "tls_handshake_timeout", "TLS_FAILURE", "the TLS handshake did not finish in time", "load of the peer; something that is not a mesh proxy on port 15008") \
    BRUMA_REASON(PEER_UNTRUSTED, "peer_untrusted", "IDENTITY_ERROR", "the peer's certificate is not signed by a trusted root, or is out of date", "roots and clocks; `brumactl identities`") \
    BRUMA_REASON(PEER_IDENTITY_MISMATCH, "peer_identity_mismatch", "IDENTITY_ERROR", "the peer's SPIFFE identity is not the expected one", "service accounts of the destination's pods; stale endpoints") \
    BRUMA_REASON(PEER_TRUST_DOMAIN, "peer_trust_domain", "IDENTITY_ERROR", "the peer is of another trust domain", "trust domain of both meshes") \
    BRUMA_REASON(CERTIFICATE_REVOKED, "certificate_revoked", "CERT_REVOKED", "the peer's certificate is revoked", "the CRL") \
    BRUMA_REASON(IDENTITY_UNAVAILABLE, "identity_unavailable", "IDENTITY_ERROR", "there is no certificate for the pod yet", "is the CA reachable? `brumactl identities`") \
    BRUMA_REASON(HTTP2_ERROR, "http2_error", "H2_HANDSHAKE_FAILURE", "the peer broke the HTTP/2 protocol, or the tunnel was lost", "the error text; the peer's log") \
    BRUMA_REASON(CONNECT_REJECTED, "connect_rejected", "CONNECT", "the peer's proxy answered CONNECT with an error status", "401: a policy of the destination; 503: its application; the peer's log") \
    BRUMA_REASON(CONNECT_ANSWER_TIMEOUT, "connect_answer_timeout", "CONNECT", "the peer's proxy did not answer CONNECT in time", "load of the peer's node") \
    BRUMA_REASON(BAD_AUTHORITY, "bad_authority", "CONNECT", "the CONNECT request names no valid destination of this pod", "the client of the tunnel") \
    BRUMA_REASON(BAD_METHOD, "bad_method", "CONNECT", "the tunnel carried a request that is not CONNECT", "the client of the tunnel") \
    BRUMA_REASON(PEER_RESET, "peer_reset", "CONNECT", "the peer reset the connection", "the application at the other end") \
    BRUMA_REASON(IDLE_HALF_CLOSED, "idle_half_closed", "-", "one side had closed and the other was silent for too long", "an application that never closes") \
    BRUMA_REASON(TUNNEL_PING_TIMEOUT, "tunnel_ping_timeout", "H2_HANDSHAKE_FAILURE", "the peer's proxy did not answer a PING in time", "did the peer's pod or node die?") \
    BRUMA_REASON(POD_REMOVED, "pod_removed", "-", "the pod was removed", "") \
    BRUMA_REASON(DRAIN_DEADLINE, "drain_deadline", "-", "the proxy was told to end and the connection outlived the deadline", "termination grace period") \
    BRUMA_REASON(OUT_OF_RESOURCES, "out_of_resources", "CONNECT", "no memory, file descriptors or ports were left", "limits of bruma-proxy and bruma-agent; ephemeral ports of the pod") \
    BRUMA_REASON(INTERNAL, "internal", "CONNECT", "an error of our own", "please report it with the log line") \
    /* control plane and configuration */ \
    BRUMA_REASON(XDS_UNREACHABLE, "xds_unreachable", "-", "the control plane cannot be reached; the last known state serves on", "XDS_ADDRESS, its certificate, the token") \
    BRUMA_REASON(XDS_RESOURCE_REJECTED, "xds_resource_rejected", "-", "one resource of the control plane could not be used", "the resource named in the log; versions of both sides") \
    BRUMA_REASON(CA_UNREACHABLE, "ca_unreachable", "-", "the certificate authority cannot be reached", "CA_ADDRESS, its certificate, the token") \
    BRUMA_REASON(CA_REFUSED, "ca_refused", "-", "the certificate authority refused a request", "is the pod on this node? the CA's log") \
    BRUMA_REASON(MESH_FILE_INVALID, "mesh_file_invalid", "-", "the mesh file has an error; the last good state stays", "file, line and field are in the log") \
    BRUMA_REASON(MESSAGE_INVALID, "message_invalid", "-", "a message on the agent's socket could not be understood", "versions of agent, proxy and plugin") \
    BRUMA_REASON(CRL_INVALID, "crl_invalid", "-", "the file of revocation lists cannot be used; the last good lists stay, and without any `--crl-required` decides", "CRL_PATH; `openssl crl -in FILE -noout -text`") \
    /* cluster */ \
    BRUMA_REASON(API_UNREACHABLE, "api_unreachable", "-", "the Kubernetes API cannot be followed; what is known of pods serves on", "agent log; the API server's address, its CA, the token, RBAC of the agent's service account") \
    BRUMA_REASON(NETNS_NOT_FOUND, "netns_not_found", "-", "the network namespace of a running pod cannot be found", "CNI cache directory, CRI socket and /proc as the agent sees them; the pod is found when it is recreated") \
    BRUMA_REASON(ANNOTATION_FAILED, "annotation_failed", "-", "the pod's annotation ambient.istio.io/redirection cannot be written, so the control plane does not know its state", "RBAC: the agent patches pods/status") \
    BRUMA_REASON(KUBELET_NOT_FOUND, "kubelet_not_found", "-", "the kubelet's cgroup cannot be found; its probes are subject to policy like everybody's connections", "does the kubelet run, in a cgroup of its own? `--probe-cgroup`") \
    BRUMA_REASON(CNI_CONF_MISSING, "cni_conf_missing", "-", "there is no network configuration that the container runtime could load yet", "the main CNI plugin; `--cni-conf-dir`; files that are not JSON are named in the log") \
    BRUMA_REASON(CNI_INSTALL_FAILED, "cni_install_failed", "-", "the plugin or its entry could not be written", "permissions and free space of the directories named in the log") \
    BRUMA_REASON(CNI_CONF_CONTESTED, "cni_conf_contested", "-", "somebody else takes the plugin's entry out again and again, or keeps the file open for writing", "other CNI agents that own the directory exclusively") \
    /* more of connections, in the proxy */ \
    BRUMA_REASON(POLICY_MISSING, "policy_missing", "DENY", "a policy that the pod's workload names did not arrive in time", "`xds_resource_rejected` in the proxy's log; the control plane's log; the policy is named beside this reason") \
    /* the agent's own start */ \
    BRUMA_REASON(PIN_DIR_UNUSABLE, "pin_dir_unusable", "-", "the pin directory cannot be used, so the agent does not start", "`--pin-dir`: a directory in a BPF file system (`mount -t bpf bpf /sys/fs/bpf`), writable for root") \
    BRUMA_REASON(CGROUP_UNUSABLE, "cgroup_unusable", "-", "the pods' cgroup cannot be used, so the agent does not start", "`--cgroup`: a directory of the cgroup2 hierarchy above all pods; `grep cgroup2 /proc/mounts` says where that is mounted") \
    BRUMA_REASON(PINS_IN_USE, "pins_in_use", "-", "another agent uses the same pin directory, so this one does not start", "is bruma-agent running already? `systemctl status bruma-agent`; `brumactl status`") \
    BRUMA_REASON(PINS_OTHER_VERSION, "pins_other_version", "-", "the pinned maps are of a version with another layout, so the agent does not start; what is pinned steers on", "`bruma-agent --uninstall` of that version, then start this one: pods that run are outside the mesh in between") \
    /* never outside the mesh unnoticed */ \
    BRUMA_REASON(POD_UNDECIDED, "pod_undecided", "CONNECT", "the guard was closed and nobody had decided about the pod yet: its connect() was refused, or a connection to it was held back", "is the agent running, and does it hear of the API server? `brumactl status`; `--guard`") \
    BRUMA_REASON(GUARD_FAILED, "guard_failed", "-", "the guard cannot be closed: a pod that runs before it is captured can use the network", "agent log; `--guard-cgroup`; `brumactl doctor`") \
    BRUMA_REASON(GUARD_GAVE_UP, "guard_gave_up", "-", "the guard opened at its limit although pods were not decided about", "`brumactl status`: what kept the agent from deciding? `--guard=strict` keeps it closed") \
    BRUMA_REASON(CAPTURED_LATE, "captured_late", "-", "the pod ran for a while before it was captured although it belongs to the mesh; connections of that time live on as they were", "did the CNI chain have bruma-cni when the pod began? `cni.istioOwnedCNIConfig`; recreate the pod to be sure") \
    BRUMA_REASON(PROBE_NOT_REGISTERED, "probe_not_registered", "-", "a probe of the kubelet could not be registered in the kernel, so policies judge it like everybody's connection", "kernel log; please report it") \
    BRUMA_REASON(KUBELET_CGROUP_SHARED, "kubelet_cgroup_shared", "-", "other processes live in the kubelet's cgroup: their connections to ports that pods declare probes for pass like the kubelet's", "the processes that are named beside this; give the kubelet a unit of its own, or `--probe-cgroup`") \
    /* node proxies of somebody else, on the workload discovery socket */ \
    BRUMA_REASON(PROXY_AWAY, "proxy_away", "-", "the node proxy that served the pod is gone: the pod's connections are dropped until one is back", "is the node proxy (ztunnel) running, and connected to the socket that --zds-socket names? `brumactl status`") \
    BRUMA_REASON(PROXY_REFUSED_POD, "proxy_refused_pod", "-", "the node proxy refused to serve the pod", "the proxy's words beside this reason, and its log; does a process of the pod hold port 15001, 15006 or 15008?") \
    BRUMA_REASON(PROXY_LISTENERS_MISSING, "proxy_listeners_missing", "-", "the node proxy says that it serves the pod, but its listeners cannot be found there", "ENABLE_PROXY of the node proxy; does the agent see its process (hostPID) and may it look into it (CAP_SYS_PTRACE)?") \
    BRUMA_REASON(PROXY_CGROUP, "proxy_cgroup", "-", "the node proxy was refused: its connections could not be told from those of pods by its cgroup", "it needs a cgroup of its own below the agent's --cgroup, and the agent must see its process (hostPID)") \
    BRUMA_REASON(ZDS_PROTOCOL, "zds_protocol", "-", "the node proxy did not answer in time on the workload discovery socket, or not by its rules; it was disconnected", "the error text; load of the node; the proxy's log") \
    BRUMA_REASON(DNS_NOT_SERVED, "dns_not_served", "-", "the CNI agent may capture DNS in its pods for a proxy that answers it, and this proxy does not", "capture of DNS off: ambient.dnsCapture=false of istio-cni, then ISTIO_META_DNS_CAPTURE=false of the proxy") \
    BRUMA_REASON(LOOPBACK_DOWN, "loopback_down", "-", "the pod's loopback device is down, and captured connections have no way; the runtime does that to a pod that it takes down", "if the pod is not leaving: `ip link set lo up` in its network namespace; what went with the device is repaired then") \
    /* peers that break rules or want too much */ \
    BRUMA_REASON(KEY_UPDATE_FLOOD, "key_update_flood", "TLS_FAILURE", "the peer sent TLS key updates again and again with hardly any data between, so its tunnel was ended", "what runs on the peer's node; `--key-updates`") \
    BRUMA_REASON(PEER_IDENTITY_AMBIGUOUS, "peer_identity_ambiguous", "IDENTITY_ERROR", "the peer's certificate names more than one URI, and a SPIFFE certificate names one", "who signed it: the identity is in the error text") \
    /* ports, connections and descriptors that run out, in the proxy */ \
    BRUMA_REASON(CLIENT_ADDRESS_HIDDEN, "client_address_hidden", "-", "no port was left under the client's address, so the application sees the pod's own as that of the connection", "how many connections does that one client have open? `net.ipv4.ip_local_port_range` and `net.ipv4.tcp_timestamps` of the pod") \
    /* what a pod's own doings keep from being put right */ \
    BRUMA_REASON(POD_ADDRESS_UNUSABLE, "pod_address_unusable", "-", "an address of the pod cannot be used in its network namespace: it was taken from its device, or duplicate address detection has not ended or has failed; what needs it cannot be set up and is tried again", "`ip address` in the pod: is the address that `brumactl pods` names there, and not tentative or dadfailed? who took it away?") \
    BRUMA_REASON(CAPTURE_UNVERIFIED, "capture_unverified", "-", "the capture of the pod cannot be verified", "the error text; `ip rule | wc -l` and `ip route show table 100 | wc -l` in the pod; file descriptor limit of bruma-agent") \
    /* servers of the programs themselves */ \
    BRUMA_REASON(SERVER_CROWDED, "server_crowded", "-", "a server for pages or of the built-in control plane had too many connections, or too many of one source; one that had asked for nothing was closed for a new one", "who holds them: `ss -tnp` at that port, from the source that is named beside this; the settings of server connections") \
    BRUMA_REASON(CALL_STALLED, "call_stalled", "-", "a call to or from the control plane made no progress for too long although its peer answers PINGs, and was ended", "load of the control plane; `--stall-timeout`; what is between the two") \
    BRUMA_REASON(XDS_REQUEST_BOUNDED, "xds_request_bounded", "-", "the control plane is not told of everything that is held, for the request would be too long; what it does not mention in its answer is let go once that has settled", "nothing, if it settles: `bruma_xds_let_go_total`; `--xds-request-max`, `--xds-settle`") \
    /* ends of connections, in the proxy */ \
    BRUMA_REASON(LAST_BYTES_UNDELIVERED, "last_bytes_undelivered", "-", "one side of a connection had gone, and the other took nothing more of what it had sent before; the rest was dropped", "an application that does not read; `linger-timeout`") \
    BRUMA_REASON(KUBELET_REFUSED, "kubelet_refused", "-", "a process is called like the kubelet and is not taken for it: its connections are subject to policy", "the process that is named beside this: who has begun it? The kubelet is root's, and its program only root's to write") \
    BRUMA_REASON(ADMIN_REFUSED, "admin_refused", "-", "a request to the proxy's admin pages was refused: not from root, for another host name, from a web page of somebody else, or over TCP where the Unix socket is meant", "the text of the answer; `brumactl`, or `curl --unix-socket` with proxy.sock of the run directory, as root") \
    BRUMA_REASON(PEER_EXPIRED, "peer_expired", "IDENTITY_ERROR", "the certificate of the tunnel's peer, or one that it stands on, has come to its end since the tunnel was made: no new connection goes over it", "does the peer renew its certificates? `brumactl identities` there; clocks of both nodes") \
    /* addresses, numbers and options that others choose */ \
    BRUMA_REASON(NOT_OF_POD, "not_of_pod", "CONNECT", "the destination is no address that the pod's kernel has as its own, and is not delivered to it", "who routes that address to the pod? `ip route get ADDRESS` in the pod") \
    BRUMA_REASON(NUMBER_TAKEN, "number_taken", "-", "a number that the capture needs in the pod (mark 0x111/0xfff, a routing table from 100 on, a rule priority before all others) is somebody else's; nothing of theirs was changed, and the pod is not enrolled", "the text beside this; `ip rule` and `ip route show table all` in the pod") \
    BRUMA_REASON(ROUTING_OPTION, "routing_option", "CONNECT", "a process of the pod wanted a TCP socket to go by a way of its own (routing header of IPv6, source route of IPv4), by which connections that are not captured would leave the pod in plaintext: the option was refused, or the connect() of a socket that had it", "which program sets IPV6_RTHDR or IP_OPTIONS: `strace -e trace=setsockopt`") \
    BRUMA_REASON(MEMORY_BUDGET, "memory_budget", "CONNECT", "too much was held for those who do not read, and this was among what held most, or wanted more than there is", "who does not read: the application at the end that was cut; `bruma_buffered_bytes`; `--memory-budget`, `--pod-memory-budget`") \
    BRUMA_REASON(POD_FORWARDS, "pod_forwards", "-", "the pod passes on what others behind it send (a virtual machine, containers in the pod), which the hooks do not see: its own connections are captured, and it is not announced as one of the mesh", "the device that is named beside this; `--forwarding-look=0` announces such pods all the same") \
    BRUMA_REASON(LOG_NOT_READ, "log_not_read", "-", "nobody read the program's log for a while: lines beyond 256 KiB were dropped, so that nothing waits for a reader", "who reads its stderr or stdout? journald, the container runtime, a pipe; their load") \
    BRUMA_REASON(REVOCATION_UNKNOWN, "revocation_unknown", "IDENTITY_ERROR", "revocation lists are required, and none could be read since the proxy started: no peer is taken", "`crl_invalid` in the proxy's log; CRL_PATH; `--crl-required=false` serves meanwhile, and then nothing counts as revoked") \
    BRUMA_REASON(ACCEPTED_NOT_BOUND, "accepted_not_bound", "-", "a connection that an application accepted could not be bound to the device that it came by; one of the same client that chooses the same port may hang", "kernel log; please report it") \
    BRUMA_REASON(FAMILY_UNREACHABLE, "family_unreachable", "-", "the pod has no address of the family that it wanted to connect to, so connect() failed at once with ENETUNREACH, as it does outside the mesh", "nothing, where clients try IPv6 first in an IPv4 cluster; else the pod's addresses") \
    BRUMA_REASON(HANDSHAKE_EVICTED, "handshake_evicted", "TLS_FAILURE", "too many peers were in their TLS handshake at a time, and this was the oldest of them", "who connects to port 15008 and says nothing; `--max-pod-handshakes`, `--max-handshakes`") \
    BRUMA_REASON(POD_DESCRIPTORS, "pod_descriptors", "CONNECT", "the pod has as many connections as one pod may have", "who holds them: `brumactl connections`; `--max-pod-descriptors`, the descriptor limit of bruma-proxy") \
    BRUMA_REASON(PEER_CONNECTIONS, "peer_connections", "CONNECT", "the client has as many connections to the pod as one address may have", "`brumactl connections`; `--max-peer-connections`")

enum bruma_reason {
#define BRUMA_REASON_ENUM(id, name, flag, what, check) BRUMA_REASON_##id,
    BRUMA_REASONS(BRUMA_REASON_ENUM)
#undef BRUMA_REASON_ENUM
    BRUMA_REASON_COUNT
};
/* clang-format on */

#endif
