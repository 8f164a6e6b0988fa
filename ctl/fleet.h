/* SPDX-License-Identifier: Apache-2.0 */
/* All nodes of a cluster, as the API server knows agents and proxies, and questions to all at once. */
#ifndef CTL_FLEET_H
#define CTL_FLEET_H

#include <cjson/cJSON.h>

#include "ctl/place.h"

#define FLEET_NAMESPACE "istio-system" /* where nothing else is said */

struct fleet;

struct fleet_config {
    const char *kubeconfig, *context; /* or NULL */
    const char *namespace;            /* of agents and proxies */
    const char *node;                 /* only this one; NULL: all */
    bool as_json;                     /* of the places */
};

struct fleet_answer {
    int code; /* an exit code of ctl/source.h */
    cJSON *json;
    char complaint[PLACE_COMPLAINT_MAX]; /* "": none */
};

/* How one node is asked, on several threads at once. An exit code, and with CTL_OK *ret, the caller's. */
typedef int (*fleet_ask_fn)(const struct place *place, const void *data, cJSON **ret);

/* Reads the kubeconfig, and asks for the pods. An exit code; what failed is said on stderr. */
int fleet_open(const struct fleet_config *config, struct fleet **ret);
/* The same pods, asked for again: nodes come and go, and so do pods of agents. Credentials that have expired
 * meanwhile are got anew. An exit code; what failed is said on stderr, and the fleet is as it was. The texts
 * of the config must be there still. */
int fleet_refresh(struct fleet **fleet);
/* NULL is none. */
void fleet_close(struct fleet **fleet);

/* How the API server is reached: the fleet's, never NULL. */
const struct kube_access *fleet_access(const struct fleet *fleet);
/* Of agents and proxies: the fleet's, never NULL. */
const char *fleet_namespace(const struct fleet *fleet);
/* How many nodes there are. */
size_t fleet_len(const struct fleet *fleet);
/* One of them, in the order of their names: the fleet's, never NULL. */
const struct place *fleet_place(const struct fleet *fleet, size_t i);
/*
 * The pods of agent and proxy of that node as they are now, which may be others than in its place: *ret is a
 * copy of the place with them, its texts in *ret_pods, which the caller deletes. 0, or -errno as api_list(),
 * with words in error (PLACE_COMPLAINT_MAX). Any thread.
 */
int fleet_look_again(const struct fleet *fleet, const char *node, struct place *ret, cJSON **ret_pods,
                     char *error);
/* Ends all requests to its nodes, and lets none begin. Any thread. */
void fleet_stop(struct fleet *fleet);
/* One answer a node, which the caller frees (fleet_answers_free()); NULL without memory. What takes longer
 * than a second is shown on a terminal. */
struct fleet_answer *fleet_ask(const struct fleet *fleet, fleet_ask_fn ask, const void *data);
/* NULL is none; len: of the fleet. */
void fleet_answers_free(struct fleet_answer **answers, size_t len);

#endif
