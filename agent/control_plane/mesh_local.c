/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/control_plane/mesh_local.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/proto/workload.pb-c.h"

bool mesh_workload_is_member(const struct mesh_file *file, const struct mesh_workload *workload)
{
    const struct mesh_namespace *namespace = mesh_file_namespace(file, workload->namespace);

    if (workload->mode != MESH_MODE_UNSET)
        return workload->mode == MESH_MODE_AMBIENT;
    if (namespace)
        return namespace->mode == MESH_MODE_AMBIENT;
    return workload->protocol == MESH_PROTOCOL_HBONE;
}

bool mesh_workload_speaks_hbone(const struct mesh_file *file, const struct mesh_workload *workload,
                                const struct mesh_pod *pod)
{
    return workload->protocol != MESH_PROTOCOL_TCP && mesh_workload_is_member(file, workload) &&
           (!pod || pod->enrolled);
}

bool mesh_pod_is_member(const struct mesh_file *file, const struct mesh_pod *pod)
{
    const struct mesh_namespace *namespace;

    if (pod->enrolled)
        return true;
    if (pod->workload)
        return mesh_workload_is_member(file, pod->workload);
    namespace = mesh_file_namespace(file, pod->namespace);
    return namespace && namespace->mode == MESH_MODE_AMBIENT;
}

size_t mesh_workload_tail(const struct mesh_file *file, const struct mesh_workload *workload,
                          const struct mesh_pod *pod, const char *node, uint8_t tail[MESH_TAIL_MAX])
{
    size_t len = 0, node_len = strlen(node);

    if (mesh_workload_speaks_hbone(file, workload, pod)) {
        tail[len++] = 5 << 3; /* tunnel_protocol */
        tail[len++] = ISTIO__WORKLOAD__TUNNEL_PROTOCOL__HBONE;
    }
    if (!pod)
        return len;
    for (int i = 0; i < pod->addresses_len && !workload->has_addresses; i++) {
        uint8_t *at = tail + len;

        at[0] = 3 << 3 | 2; /* addresses */
        at[1] = (uint8_t)addr_to_bytes(&pod->addresses[i], at + 2);
        len += 2u + at[1];
    }
    if (!*workload->node && node_len <= MESH_NODE_MAX) {
        tail[len++] = 9 << 3 | 2; /* node */
        if (node_len >= 0x80)
            tail[len++] = (uint8_t)(node_len | 0x80);
        tail[len++] = (uint8_t)(node_len >= 0x80 ? node_len >> 7 : node_len);
        for (size_t i = 0; i < node_len; i++)
            tail[len++] = (uint8_t)node[i];
    }
    return len;
}

int mesh_pod_generate(const struct mesh_pod *pod, const char *trust_domain, const char *node, char **ret_uid,
                      uint8_t **ret_message, uint32_t *ret_len)
{
    Istio__Workload__Workload w = ISTIO__WORKLOAD__WORKLOAD__INIT;
    ProtobufCBinaryData addresses[BRUMA_POD_ADDRESSES];
    uint8_t bytes[BRUMA_POD_ADDRESSES][16], *message;
    /* The compiler is told, too: gcc 14 takes an index without a bound for one beyond the end. */
    int addresses_len = pod->addresses_len < BRUMA_POD_ADDRESSES ? pod->addresses_len : BRUMA_POD_ADDRESSES;
    char *uid = NULL;
    size_t len;

    if (asprintf(&uid, "Kubernetes//Pod/%s/%s", pod->namespace, pod->name) < 0)
        return -ENOMEM;
    for (int i = 0; i < addresses_len; i++) {
        addresses[i].len = addr_to_bytes(&pod->addresses[i], bytes[i]);
        addresses[i].data = bytes[i];
    }
    w.uid = uid;
    w.name = pod->name;
    w.namespace_ = pod->namespace;
    w.addresses = addresses;
    w.n_addresses = (size_t)addresses_len;
    w.tunnel_protocol =
        pod->enrolled ? ISTIO__WORKLOAD__TUNNEL_PROTOCOL__HBONE : ISTIO__WORKLOAD__TUNNEL_PROTOCOL__NONE;
    w.trust_domain = (char *)trust_domain;
    w.service_account = (char *)"default";
    w.node = (char *)node;
    w.workload_type = ISTIO__WORKLOAD__WORKLOAD_TYPE__POD;
    w.workload_name = w.canonical_name = pod->name;
    w.cluster_id = (char *)"Kubernetes";
    len = istio__workload__workload__get_packed_size(&w);
    message = malloc(len);
    if (!message) {
        free(uid);
        return -ENOMEM;
    }
    istio__workload__workload__pack(&w, message);
    *ret_uid = uid;
    *ret_message = message;
    *ret_len = (uint32_t)len;
    return 0;
}

void mesh_pod_free(struct mesh_pod *pod)
{
    if (!pod)
        return;
    free(pod->uid);
    free(pod->namespace);
    free(pod->name);
    free(pod->generated_uid);
    free(pod->generated);
    free(pod);
}
