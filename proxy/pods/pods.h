/* SPDX-License-Identifier: Apache-2.0 */
/* The pods this proxy serves, as the agent names them. Control thread; the workers get their own view by
 * messages. */
#ifndef PROXY_PODS_PODS_H
#define PROXY_PODS_PODS_H

#include <stdbool.h>
#include <stdint.h>

#include "bruma/maps.h"
#include "bruma/protocol.h"
#include "lib/addr.h"
#include "lib/direct_ways.h"
#include "lib/outbound_policy.h"

struct proxy;
struct pod;
struct name_set;

/* What is told of pods to who names them, on the control thread. Given by main.c. */
struct pods_events {
    /* Called when the last connection of a draining pod has ended, or it has none. Not for who never drains
     * one. */
    void (*drained)(struct proxy *proxy, const char *uid);
    /* Called when a listener of the pod was destroyed: it needs a new one. */
    void (*listener_closed)(struct proxy *proxy, const char *uid);
    /* Called when a listener of the own pod was destroyed. NULL: there is no such pod. */
    void (*own_listener_closed)(struct proxy *proxy);
};

struct pod_info {
    const char *uid, *name, *namespace, *service_account;
    bool own;                 /* the pod that the proxy itself runs in: nobody else names or removes it */
    bool hides_clients;       /* own: its applications see connections from its own address */
    uint32_t mark;            /* own: of our sockets in it; 0: none */
    const char *trust_domain; /* NULL: as the mesh state says, once it knows the pod */
    uint64_t cookie;
    uint32_t generation;
    struct addr addresses[BRUMA_POD_ADDRESSES];
    int addresses_len;
    enum outbound_policy outbound_policy; /* UNSAID: as the settings say */
    struct direct_switches direct;        /* UNSAID: as the agent says for all pods */
    bool bypass_inbound;                  /* plaintext from outside goes straight to the application */
};

/* Takes the descriptors (enum bruma_pod_fd), also when it fails; -1 for a listener that an own pod does not
 * have. A pod with the same uid gets the new listeners; its connections live on. A draining pod that is added
 * again serves again. 0, or -errno with reason and error for the nack. */
int pods_add(struct proxy *proxy, const struct pod_info *info, int fds[BRUMA_POD_FD_COUNT],
             enum bruma_reason *reason, char *error, size_t error_size);
/* The pod leaves the mesh: no new connections, GOAWAY on its tunnels, live ones go on; pods_events.drained
 * is called when none is left. Unknown uid: it is called at once. */
void pods_drain(struct proxy *proxy, const char *uid);
/* The pod was told to end: GOAWAY on its peers' tunnels, and it is served on. Adding it again takes that
 * back; an unknown uid is fine. */
void pods_ending(struct proxy *proxy, const char *uid);
/*
 * The sockets that the pod's DNS queries come to; udp -1: they are not captured any more. tcp: of pods
 * that netfilter rules capture; else -1. Takes both, also when it fails: -ENOENT, there is no such pod;
 * -EMFILE or -ENOMEM, and what was there stays. Control thread.
 */
int pods_set_dns(struct proxy *proxy, const char *uid, int udp, int tcp);
/* Of all pods that have none: the listeners for SOCKS, where the settings ask for it. Who gets none is served
 * all the same. Control thread. */
void pods_open_socks(struct proxy *proxy);
/* The control thread's descriptors of these. They end with the workers' own. */
void pods_close_socks(struct proxy *proxy);
/* Everything of the pod is aborted; an unknown uid is fine. */
void pods_delete(struct proxy *proxy, const char *uid);
/* The same for all pods that are not in the set. */
void pods_delete_unnamed(struct proxy *proxy, const struct name_set *named);
/* Whether the pod is served already, in this namespace and with this identity, so adding it again would
 * change nothing. */
bool pods_serves(struct proxy *proxy, const struct pod_info *info);

/* Called from pods_each(), on its thread: info is valid during the call, descriptors stay with the pod. */
typedef void (*pods_each_fn)(void *data, const struct pod_info *info, bool draining,
                             const int fds[BRUMA_POD_FD_COUNT]);
/* Calls fn for each pod that was named and is served or draining, for pod-held messages. */
void pods_each(struct proxy *proxy, pods_each_fn fn, void *data);
/* The same for the own pod, if there is one. */
void pods_each_own(struct proxy *proxy, pods_each_fn fn, void *data);
/* Calls each, during the call, for every pod of an agent's with the identity's namespace and account, with
 * its UID: identity_config.pods; data: the struct proxy. */
void pods_each_of(void *data, const char *uri, void (*each)(void *each_data, const char *uid),
                  void *each_data);

/* The mesh state has changed: pods may have got the identity that the mesh knows them by. */
void pods_state_changed(struct proxy *proxy);

/* The map by which sockets are exempted from capture, and the one of deliveries (-1: the agent has none);
 * takes both. */
void pods_set_maps(struct proxy *proxy, int exempt, int deliveries);
/* The control thread's descriptors of all listeners that the proxy has opened itself. They end with the
 * workers' own. */
void pods_close_listeners(struct proxy *proxy);

#endif
