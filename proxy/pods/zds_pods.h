/* SPDX-License-Identifier: Apache-2.0 */
/* Pods that a CNI agent named over ZDS: they get their listeners here and are handed to proxy/pods/pods.h.
 * One that cannot be served is kept as pending and tried again. Control thread. */
#ifndef PROXY_PODS_ZDS_PODS_H
#define PROXY_PODS_ZDS_PODS_H

#include "lib/list.h"
#include "lib/loop.h"
#include "proxy/pods/pod_listeners.h"
#include "proxy/pods/pods.h"

#define ZDS_RETRY_MILLISECONDS 5000

struct zds_pods {
    struct proxy *proxy;
    struct loop *loop;
    struct pod_listener_options options;
    int own_netns_fd; /* the proxy's */
    uint64_t own_cookie;
    struct list pending;
    size_t pending_len;
    struct loop_timer retry;
};

/* None is pending. options are copied; own_netns_fd stays the caller's. */
void zds_pods_init(struct zds_pods *pods, struct loop *loop, struct proxy *proxy,
                   const struct pod_listener_options *options, int own_netns_fd, uint64_t own_cookie);
/* Forgets what is pending; what is served stays. */
void zds_pods_clear(struct zds_pods *pods);

/*
 * Serves the pod in this namespace; takes netns_fd, also on failure. info->cookie and trust_domain are not
 * needed. The same pod again changes nothing; in another namespace it is a new sandbox, and what there was is
 * cut. 0, or -errno: the pod is pending, and error is a sentence for the agent.
 */
int zds_pods_add(struct zds_pods *pods, const struct pod_info *info, int netns_fd, char *error,
                 size_t error_size);
/* The pod is not wanted any more, if it is pending. */
void zds_pods_forget(struct zds_pods *pods, const char *uid);
/* The same for all that are not in the set. */
void zds_pods_forget_unnamed(struct zds_pods *pods, const struct name_set *named);
/* Somebody has destroyed a listener of a pod that is served: opens a new one. */
void zds_pods_reopen(struct zds_pods *pods, const char *uid);

/* Called from zds_pods_each_pending(), on its thread; info is valid during the call. */
typedef void (*zds_pending_fn)(void *data, const struct pod_info *info);
/* Calls fn for each that is pending. */
void zds_pods_each_pending(const struct zds_pods *pods, zds_pending_fn fn, void *data);

#endif
