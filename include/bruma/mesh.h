/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Numbers that every part of the node agrees on. The ports and the mark below are the ones that the
 * ambient mesh uses; peers, policies and operators' firewall rules depend on them.
 */
#ifndef BRUMA_MESH_H
#define BRUMA_MESH_H

#define BRUMA_PORT_OUTBOUND  15001 /* reserved in pods: never a valid destination of a tunnel */
#define BRUMA_PORT_PLAINTEXT 15006 /* reserved in pods: never a valid destination of a tunnel */
#define BRUMA_PORT_HBONE     15008 /* HTTP/2 CONNECT over mutual TLS, on every pod of the mesh */
#define BRUMA_PORT_XDS       15012 /* the agent's own control plane, on loopback */
#define BRUMA_PORT_ADMIN     15000 /* loopback */
#define BRUMA_PORT_METRICS   15020
#define BRUMA_PORT_READY     15021
#define BRUMA_PORT_SOCKS     15080 /* in pods, on loopback, where it is asked for */

/* Packets that carry this mark are delivered to the pod's own loopback device (route table 100). */
#define BRUMA_MARK      0x111u
#define BRUMA_MARK_MASK 0xfffu
/* The same to every rule; tells sockets that the connect hook has captured from those that the proxy delivers
 * by. */
#define BRUMA_MARK_CAPTURED 0x1111u
/* Of the proxy's own queries to DNS servers: the rule that captures those of the pod is for packets that
 * have no mark. The value is the one that rules of other ambient agents exempt. */
#define BRUMA_MARK_QUESTION 0x539u

#define BRUMA_PORT_DNS        53
#define BRUMA_PORT_DNS_LISTEN 15053 /* where netfilter rules of other agents redirect it to, on loopback */

/* The first choice. Where they are somebody else's, the next table that is free, and priorities before
 * everybody else's: see steer/pod_numbers.h. */
#define BRUMA_ROUTE_TABLE     100
#define BRUMA_RULE_PREFERENCE 32764 /* after the rule of the local table, before the main table */
#define BRUMA_ROUTE_PROTOCOL  98    /* of rules and routes: tells ours from others' */

#define BRUMA_LOOPBACK_IFINDEX 1 /* the same in every network namespace */

#define BRUMA_DEFAULT_RUN_DIR "/run/bruma"
#define BRUMA_DEFAULT_PIN_DIR "/sys/fs/bpf/bruma"

#define BRUMA_AGENT_SOCKET "agent.sock" /* in the run directory; see protocol.h */
#define BRUMA_PROXY_SOCKET "proxy.sock" /* in the run directory; HTTP, the same pages as port 15000 */

#define BRUMA_LABEL_DATAPLANE_MODE "istio.io/dataplane-mode" /* value "ambient" enrolls, "none" opts out */

#endif
