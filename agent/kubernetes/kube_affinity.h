/* SPDX-License-Identifier: Apache-2.0 */
/* Whether the template of a DaemonSet wants a node: its node selector and required node affinity, as the
 * scheduler reads them. Taints and preferences are not looked at. */
#ifndef AGENT_KUBERNETES_KUBE_AFFINITY_H
#define AGENT_KUBERNETES_KUBE_AFFINITY_H

#include <cjson/cJSON.h>

enum kube_wants {
    KUBE_WANTS_UNSURE, /* something there is not understood */
    KUBE_WANTS_NODE,
    KUBE_WANTS_OTHERS,
};

/* Both as the API server gives them. */
enum kube_wants kube_daemonset_wants(const cJSON *daemonset, const cJSON *node);

#endif
