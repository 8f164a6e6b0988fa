/* SPDX-License-Identifier: Apache-2.0 */
/* clang-format off */
/*
 * The local protocol: one SOCK_SEQPACKET unix socket of the agent (RUN_DIR/agent.sock), spoken by the CNI plugin, the
 * proxy and brumactl. One JSON object a datagram, at most BRUMA_MESSAGE_MAX bytes; file descriptors travel beside it
 * (SCM_RIGHTS). Every peer must be root (SO_PEERCRED). Unknown keys are ignored, an unknown "op" is answered with
 * {"op":"error"}. A reply of several datagrams is a series of {"op":"item"} closed by {"op":"end"}.
 *
 * Netns cookies are decimal strings: JSON numbers do not hold 64 bits. "reason" is a name of bruma/reasons.h.
 *
 * CNI plugin -> agent
 *   cni-add     containerId netns ifname network podName podNamespace podUid ips[]        fd: netns
 *     ips are "10.0.0.1" or "10.0.0.1/24"; without podUid the container's id stands for it
 *     <- {"op":"decision","decision":"pass"}                      nothing to attach: the pod is not in the mesh, or
 *          ("enrolled":true) an earlier run of the chain has enrolled it and the addresses were added
 *     <- {"op":"decision","decision":"enrol","link":PATH,"cookie":C}  fd: program
 *          The plugin attaches the program to the netns (BPF_LINK_CREATE) and pins the link at PATH.
 *   cni-attached                                                  after "enrol": the link is pinned
 *     <- {"op":"done"}                                            verified and committed
 *   cni-failed  reason error                                      after "enrol": could not attach; agent rolls back,
 *     <- {"op":"done"}                                            the end of the connection means the same.
 *   cni-del     containerId ifname podName podNamespace podUid    <- done
 *   cni-check   containerId ifname podName podNamespace podUid    fd: netns; <- done, or error if capture is broken
 *   cni-gc      network attachments[{containerID,ifname}]         <- done
 *   cni-status                                                    <- done, or error
 *   any of them <- {"op":"error","reason":R,"error":TEXT}
 *
 * Proxy -> agent, in this order after connecting
 *   proxy-hello  pid version [deliveries] [dns] [endings] [direct] [serving] [handOver] [handedOver{}: what it has said by handed-over, again]
 *                handOver: it can give and take live connections (bruma/handover.h); deliveries: it takes the second descriptor of setup; dns: and pod-dns; endings: and pod-ending; direct: and direct; serving: and serving
 *   pod-held     uid cookie generation draining   fds: netns outbound inbound hbone   once for each pod it serves already
 *   held-end     draining [ending]            draining: it was told to drain and must not take over again; ending: nor resume
 * Agent -> proxy; each has a "seq" that the proxy's ack names
 *   setup        pinDir                                           fds: map proxy_sockets [deliveries]
 *   direct       outside inbound sameNode(hbone, relay or kernel)    after setup, to who takes it; again when something changes
 *                [noKernel: true] direct connections cannot be accounted for here, and so no way is on
 *                outside, inbound: whether those ways of bruma/direct.h are on. fds: maps direct_control direct_proxies direct_pods mesh_addresses mesh_prefixes flows flow_events
 *   direct-node  behind direct where sameNode is kernel, and this node can
 *                fds: maps node_control node_devices node_verdicts node_pending node_tuples
 *   pod-add      uid cookie generation name namespace serviceAccount trustDomain(where the agent knows it) node ips[]
 *                [outboundPolicy: REGISTRY_ONLY or ALLOW_ANY; without: as the proxy's settings say]
 *                [directOutside: false] [directInbound: false] [sameNode] by the pod's annotations; of sameNode here and in direct the longer way counts
 *                [bypassInbound: true] plaintext from outside goes straight to the application, and is accounted
 *                fds: netns outbound inbound hbone                the same uid again replaces listeners
 *   pod-dns      uid    after pod-add                                 fd: UDP socket that takes the pod's DNS queries
 *                without: they are not captured any more
 *   pod-ending   uid    after pod-add, to who takes it: the pod was told to end. GOAWAY on the tunnels of its peers, and everything
 *                of it is served on until pod-del. Another pod-add: it was not
 *   pod-keep     uid    still there, nothing changes (to a proxy that is being replaced)
 *   pod-drain    uid    the pod leaves the mesh: no new connections, GOAWAY, live ones go on
 *   pod-del      uid    the pod is gone: everything is cut
 *   snapshot-end        pods that were not named since the connection began are gone
 *   error        reason error    in place of all of it. reason proxy_not_connected: other proxies serve the pods, and this one's word on direct ways ends
 *   drain        deadlineMilliseconds    another proxy has taken over: stop accepting, end when idle or at the deadline
 *   serving             to who takes it: it has taken over. It is ready from now on, also while no agent is there, until drain
 *   hand-over    before drain: live connections may go to that proxy        fd: socket to it
 *   take                it has taken over from another one, whose live connections may come   fds: socket to that one, pidfd of it
 *   resume              the others are gone: forget the drain and accept again. After its ack come pod-add for all pods
 * Proxy -> agent
 *   ack          seq [reason error] [ready]   ready: false with snapshot-end: it knows nothing of the mesh yet, accepts nothing
 *   ready                                     that is over
 *   pod-drained  uid    the last connection of a draining pod has ended
 *   listener-closed  uid    somebody has destroyed a listener of the pod; the agent verifies the pod at once
 *   handed-over  moved left milliseconds pauseMicroseconds why   after take: units that came, connections that stay with the other one,
 *                the time for all and the longest that one stood still; why: "" if none stays
 *   ending              it was told to end (SIGTERM) and accepts nothing any more; another one shall serve
 * The youngest process that has acknowledged its snapshot and is ready serves; the one before it gets drain. When it goes and none
 * has taken over, the youngest of those that got drain gets resume.
 *
 * brumactl -> agent
 *   status       <- item, end
 *     version pid node startedAt runDir pinDir cgroup probeCgroup cgroupHooks("attached" or a reason) trustDomain
 *     pods{outside,enrolling,enrolled,leaving,draining} proxyConnected
 *     proxyKind("bruma-proxy", or "ztunnel" with --zds-socket)
 *     proxies[{kind pid version state connectedSeconds podsServing podsPending podsFailed podsDraining [takesOver: true, while
 *     connections of another one may come] [handOver{moved left milliseconds pauseMicroseconds why}]}]
 *     mends{reason: count} failures{reason: {count,lastSeenSecondsAgo}} verifyIntervalMilliseconds
 *     verifyRounds problems[{reason,what,check,detail}], and of the mesh: meshFile meshReady meshError meshLoadedAt namespaces
 *     workloads services policies xdsAddress xdsClients caSubject caNotAfter
 *     With the Kubernetes API as source, instead of those of the mesh: source("kubernetes") apiServer sourceReady
 *     sourceError namespaces podsOfNode podsNotFound["namespace/name: why"]
 *     watchPods, watchNamespaces{synced following since lists watches error}
 *   pods         <- item for each pod, end
 *     uid namespace name containerId netns cookie ips[] attachments[{network,ifname}] state wanted why
 *     identity serviceAccount generation capturedSinceStart addedAt enrolledAt verifiedAt enrolMicroseconds
 *     proxy("serving","pending","failed","draining","drained","not_connected") mends{reason: count}
 *     direct{outside("direct" or why not) inbound("pass","refuse","bypass" or why not) sameNode}: names of BRUMA_LONG_WAYS
 *     announced forwards("": nothing; else the device by which it passes on what others send)
 *     endingAt(when it was told to end) lastReason lastError, and where it is pinned: counters{name: count} in the
 *     names of struct bruma_pod_counters, bruma_exclusion_counters and bruma_direct_counters; outboundLongWay,
 *     inboundLongWay{reason: count} in the names of BRUMA_LONG_WAYS
 *   explain      pod: "namespace/name" [to: "IP:PORT"]  <- item {"check","ok","detail"[,"reason","advice"]} for each finding, end
 *   pod-end      pod: "namespace/name"  <- end, or error. The pod was told to end; not where the Kubernetes API says so
 *   doctor       <- item {"check","ok","detail"[,"reason","advice"]} for each check, end
 * Times are seconds since 1970, 0: never.
 */
/* clang-format on */
#ifndef BRUMA_PROTOCOL_H
#define BRUMA_PROTOCOL_H

/*
 * What an agent leaves for the plugin, as a file of root in the run directory: {"revision","writtenAt"
 * (seconds since 1970),"validSeconds","withoutAgent": mode,"namespaces": {name: OUTSIDE_...},"pods": {uid:
 * OUTSIDE_ALWAYS or INSIDE}}. Who is not named may belong to the mesh.
 */
#define BRUMA_DECISIONS                "decisions.json"
#define BRUMA_OUTSIDE_ALWAYS           "outside"
#define BRUMA_OUTSIDE_UNLABELLED       "outside unless labelled" /* pods without labels of their own are */
#define BRUMA_INSIDE                   "inside"
#define BRUMA_WITHOUT_AGENT_WAIT       "wait"
#define BRUMA_WITHOUT_AGENT_KNOWN      "known"
#define BRUMA_WITHOUT_AGENT_NAMESPACES "namespaces"

#define BRUMA_MESSAGE_MAX     (64 * 1024) /* bytes of one datagram */
#define BRUMA_MESSAGE_FDS_MAX 8           /* descriptors beside one */

/* Order of the descriptors that go with direct: maps of bruma/direct.h. */
enum bruma_direct_fd {
    BRUMA_DIRECT_FD_CONTROL = 0,
    BRUMA_DIRECT_FD_PROXIES = 1,
    BRUMA_DIRECT_FD_PODS = 2,
    BRUMA_DIRECT_FD_ADDRESSES = 3,
    BRUMA_DIRECT_FD_PREFIXES = 4,
    BRUMA_DIRECT_FD_FLOWS = 5,
    BRUMA_DIRECT_FD_EVENTS = 6,
    BRUMA_DIRECT_FD_COUNT = 7,
};

/* Order of the descriptors that go with direct-node: maps of bruma/node.h. */
enum bruma_node_fd {
    BRUMA_NODE_FD_CONTROL = 0,
    BRUMA_NODE_FD_DEVICES = 1,
    BRUMA_NODE_FD_VERDICTS = 2,
    BRUMA_NODE_FD_PENDING = 3,
    BRUMA_NODE_FD_TUPLES = 4,
    BRUMA_NODE_FD_PLACES = 5,
    BRUMA_NODE_FD_COUNT = 6,
};

/* Order of the descriptors that go with pod-add and pod-held. The last three follow enum bruma_listener. */
enum bruma_pod_fd {
    BRUMA_POD_FD_NETNS = 0,
    BRUMA_POD_FD_OUTBOUND = 1,
    BRUMA_POD_FD_INBOUND = 2,
    BRUMA_POD_FD_HBONE = 3,
    BRUMA_POD_FD_COUNT = 4,
};

#endif
