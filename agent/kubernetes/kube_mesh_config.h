/* SPDX-License-Identifier: Apache-2.0 */
/* Istio's mesh configuration, the key "mesh" of a ConfigMap, as the API server tells it: the outbound traffic
 * policy. All on the loop's thread. */
#ifndef AGENT_KUBERNETES_KUBE_MESH_CONFIG_H
#define AGENT_KUBERNETES_KUBE_MESH_CONFIG_H

#include "agent/kubernetes/kube_watch.h"
#include "lib/outbound_policy.h"

struct kube_mesh_config {
    struct kube_watch *watch; /* NULL: none is read */
    char path[400], selector[300];
    enum outbound_policy policy; /* UNSAID: it says nothing, or there is none */
    bool good;                   /* some version of it could be read, or there was none */
    bool listed;                 /* the list under way has named it */
    char error[256];             /* of the last version; "": it is good */
    /* Called when the policy has changed. */
    void (*changed)(void *data);
    void *data;
};

/*
 * name: NAME or NAMESPACE/NAME of the ConfigMap, without a namespace one of that system's; "": none is read,
 * and the policy stays UNSAID. changed: called as in the struct. config stays where it is until it is closed.
 * 0, -EINVAL for a name that is none, or -ENOMEM.
 */
int kube_mesh_config_open(struct kube_mesh_config *config, struct loop *loop, struct kube_client *client,
                          const char *name, const char *system_namespace, void (*changed)(void *data),
                          void *data);
/* Harmless if it was not opened. */
void kube_mesh_config_close(struct kube_mesh_config *config);
/* Whether the server has answered, or is not asked. */
bool kube_mesh_config_synced(const struct kube_mesh_config *config);

#endif
