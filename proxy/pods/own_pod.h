/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The pod that the proxy itself runs in, whose listeners are in the process's own network namespace. Either
 * it only takes HBONE for itself, so that the mesh reaches its metrics (contract section 13.4), or it is all
 * that the proxy serves: a machine, or a single pod, whose own rules capture its connections. No agent names
 * it. Control thread.
 */
#ifndef PROXY_PODS_OWN_POD_H
#define PROXY_PODS_OWN_POD_H

#include <stdbool.h>
#include <stdint.h>

#include "lib/loop.h"
#include "proxy/pods/pod_listeners.h"

struct own_pod;
struct proxy;

/* Strings are not copied; they live as long as the settings. */
struct own_pod_config {
    const char *name, *namespace, *service_account;
    const char *trust_domain; /* "": as the mesh says */
    bool hides_clients;       /* deliveries come from the pod's own address */
    struct pod_listener_options options;
};

/* Opens the listeners, or says in the log why not and tries again every few seconds. own_netns_fd: the
 * proxy's, which the calling thread is in; stays the caller's. 0 or -ENOMEM. */
int own_pod_new(struct loop *loop, struct proxy *proxy, const struct own_pod_config *config, int own_netns_fd,
                struct own_pod **ret);
void own_pod_free(struct own_pod **own);

/* The proxy drains: nothing is opened any more. NULL is fine, as for all of these. */
void own_pod_stop(struct own_pod *own);
/* It serves again: the listeners are opened again. */
void own_pod_start(struct own_pod *own);
/* One of its listeners was destroyed. */
void own_pod_listener_closed(struct own_pod *own);
/* All listeners are open. NULL: false. */
bool own_pod_ready(const struct own_pod *own);

#endif
