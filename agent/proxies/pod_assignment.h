/* SPDX-License-Identifier: Apache-2.0 */
/* One pod as one proxy is to see it, whichever kind the proxy is of: what proxy_assignments.h and zds_peers.h
 * have in common. Their structs begin with a struct pod_assignment, and are what their lists consist of. */
#ifndef AGENT_PROXIES_POD_ASSIGNMENT_H
#define AGENT_PROXIES_POD_ASSIGNMENT_H

#include "agent/enroll/enrollment.h"

/* What one proxy is to know of the pods. */
struct pod_assignments {
    struct list all, pending;
};

struct pod_assignment {
    struct list of_proxy, of_pod, pending;
    struct pod_assignments *assignments;
    struct pod *pod; /* NULL once it is gone; then only the delete is left to send */
    char *uid;
};

/* Makes it empty. */
void pod_assignments_init(struct pod_assignments *assignments);
/* The one of that pod, which assignments own; NULL: there is none. */
struct pod_assignment *pod_assignments_find(const struct pod_assignments *assignments, const struct pod *pod);
/* Finds it or makes a new one: size bytes, zero behind struct pod_assignment. assignments own it. NULL: no
 * memory. */
struct pod_assignment *pod_assignments_get(struct pod_assignments *assignments, struct pod *pod, size_t size);

/* Takes it out of all lists, and frees it. */
void pod_assignment_free(struct pod_assignment *assignment);
/* Moves it to the end of the pending ones, or out of them. */
void pod_assignment_set_pending(struct pod_assignment *assignment, bool pending);
/* The pod is about to be freed. */
void pod_assignment_lose_pod(struct pod_assignment *assignment);

#endif
