/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/proxies/pod_view.h"

#include <stdlib.h>
#include <string.h>

void pod_views_init(struct pod_views *views)
{
    list_init(&views->all);
    list_init(&views->wishes);
}

struct pod_view *pod_views_find(const struct pod_views *views, const struct pod *pod)
{
    struct pod_view *v;

    list_for_each (v, &pod->views, of_pod) {
        if (v->views == views)
            return v;
    }
    return NULL;
}

struct pod_view *pod_views_get(struct pod_views *views, struct pod *pod, size_t size)
{
    struct pod_view *v = pod_views_find(views, pod);

    if (v)
        return v;
    v = calloc(1, size);
    if (!v)
        return NULL;
    v->uid = strdup(pod->uid);
    if (!v->uid) {
        free(v);
        return NULL;
    }
    v->views = views;
    v->pod = pod;
    list_init(&v->wished);
    list_add_tail(&views->all, &v->of_proxy);
    list_add_tail(&pod->views, &v->of_pod);
    return v;
}

void pod_view_free(struct pod_view *v)
{
    list_del(&v->of_proxy);
    list_del(&v->of_pod);
    list_del(&v->wished);
    free(v->uid);
    free(v);
}

void pod_view_wish(struct pod_view *v, bool wished)
{
    list_del(&v->wished);
    if (wished)
        list_add_tail(&v->views->wishes, &v->wished);
}

void pod_view_lose_pod(struct pod_view *v)
{
    v->pod = NULL;
    list_del(&v->of_pod);
}
