/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which pods the mesh wants: a list of pairs of label selectors, of the pod and of its namespace, of which
 * one must match. The form is that of AMBIENT_ENABLEMENT_SELECTOR (YAML, so JSON too).
 */
#ifndef AGENT_KUBERNETES_KUBE_SELECTOR_H
#define AGENT_KUBERNETES_KUBE_SELECTOR_H

#include <cjson/cJSON.h>
#include <stdbool.h>
#include <stddef.h>

/* The label istio.io/dataplane-mode of the pod, else of its namespace. */
#define KUBE_DEFAULT_SELECTORS                                                                              \
    "[{podSelector: {matchLabels: {istio.io/dataplane-mode: ambient}}}, "                                   \
    "{podSelector: {matchExpressions: [{key: istio.io/dataplane-mode, operator: NotIn, values: [none]}]}, " \
    "namespaceSelector: {matchLabels: {istio.io/dataplane-mode: ambient}}}]"

struct kube_selectors;

/* -EINVAL with a sentence in error. An empty list matches nothing, an empty selector everything. */
int kube_selectors_parse(const char *text, struct kube_selectors **ret, char *error, size_t error_size);
void kube_selectors_free(struct kube_selectors **selectors);

/* The number of the pair that matches, from 0, or -1. Labels may be NULL: none. */
int kube_selectors_match(const struct kube_selectors *selectors, const cJSON *pod_labels,
                         const cJSON *namespace_labels);

/* Whether a pod of a namespace with these labels could match, whatever its own are. */
bool kube_selectors_possible(const struct kube_selectors *selectors, const cJSON *namespace_labels);

#endif
