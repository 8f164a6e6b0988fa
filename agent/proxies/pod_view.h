/* SPDX-License-Identifier: Apache-2.0 */
/* One pod as one proxy is to see it, whichever kind the proxy is of: what proxy_views.h and zds_peers.h have
 * in common. Their structs begin with a struct pod_view, and are what their lists consist of. */
#ifndef AGENT_PROXIES_POD_VIEW_H
#define AGENT_PROXIES_POD_VIEW_H

#include "agent/enroll/pods.h"

/* What one proxy is to know of the pods. */
struct pod_views {
    struct list all, wishes;
};

struct pod_view {
    struct list of_proxy, of_pod, wished;
    struct pod_views *views;
    struct pod *pod; /* NULL once it is gone; then only the delete is left to send */
    char *uid;
};

void pod_views_init(struct pod_views *views);
struct pod_view *pod_views_find(const struct pod_views *views, const struct pod *pod); /* or NULL */
/* Finds it or makes a new one: size bytes, zero behind struct pod_view. NULL: no memory. */
struct pod_view *pod_views_get(struct pod_views *views, struct pod *pod, size_t size);

void pod_view_free(struct pod_view *view);
/* Moves it to the end of the wishes, or takes it out of them. */
void pod_view_wish(struct pod_view *view, bool wished);
/* The pod is about to be freed. */
void pod_view_lose_pod(struct pod_view *view);

#endif
