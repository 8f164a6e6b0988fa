/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/proxies/pod_assignment.h"

#include <stdlib.h>
#include <string.h>

void pod_assignments_init(struct pod_assignments *assignments)
{
    list_init(&assignments->all);
    list_init(&assignments->pending);
}

struct pod_assignment *pod_assignments_find(const struct pod_assignments *assignments, const struct pod *pod)
{
    struct pod_assignment *a;

    list_for_each (a, &pod->assignments, of_pod) {
        if (a->assignments == assignments)
            return a;
    }
    return NULL;
}

struct pod_assignment *pod_assignments_get(struct pod_assignments *assignments, struct pod *pod, size_t size)
{
    struct pod_assignment *a = pod_assignments_find(assignments, pod);

    if (a)
        return a;
    a = calloc(1, size);
    if (!a)
        return NULL;
    a->uid = strdup(pod->uid);
    if (!a->uid) {
        free(a);
        return NULL;
    }
    a->assignments = assignments;
    a->pod = pod;
    list_init(&a->pending);
    list_add_tail(&assignments->all, &a->of_proxy);
    list_add_tail(&pod->assignments, &a->of_pod);
    return a;
}

void pod_assignment_free(struct pod_assignment *a)
{
    list_del(&a->of_proxy);
    list_del(&a->of_pod);
    list_del(&a->pending);
    free(a->uid);
    free(a);
}

void pod_assignment_set_pending(struct pod_assignment *a, bool pending)
{
    list_del(&a->pending);
    if (pending)
        list_add_tail(&a->assignments->pending, &a->pending);
}

void pod_assignment_lose_pod(struct pod_assignment *a)
{
    a->pod = NULL;
    list_del(&a->of_pod);
}
