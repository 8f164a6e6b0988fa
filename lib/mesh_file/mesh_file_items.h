/* SPDX-License-Identifier: Apache-2.0 */
/* The items of the mesh file's lists. Each function decodes one and writes the fields that the file keeps of
 * it; what they point to is still in the arena of the source's current item. */
#ifndef LIB_MESH_FILE_MESH_FILE_ITEMS_H
#define LIB_MESH_FILE_MESH_FILE_ITEMS_H

#include "lib/mesh_file/mesh_file_decode.h"
#include "lib/proto/authorization.pb-c.h"
#include "lib/proto/workload.pb-c.h"

/* A workload, and what the file says of it beside the message. */
struct mesh_file_workload_item {
    Istio__Workload__Workload message;
    enum mesh_protocol protocol;
    enum mesh_mode mode;
    struct mesh_annotations annotations;
    const struct yaml_node *service_nodes, *policy_nodes; /* for errors about what they name; may be NULL */
};

/* Each of the four fills ret from one item of the file. What it points to is the decoder's (struct
 * decode). 0, -EBADMSG with the place in the decoder's error, or -ENOMEM; then what ret holds means
 * nothing. */
int mesh_file_decode_namespace(struct decode *d, const struct yaml_node *node, struct mesh_namespace *ret);
int mesh_file_decode_workload(struct decode *d, const struct yaml_node *node, const char *trust_domain,
                              struct mesh_file_workload_item *ret);
int mesh_file_decode_service(struct decode *d, const struct yaml_node *node, Istio__Workload__Service *ret);
int mesh_file_decode_policy(struct decode *d, const struct yaml_node *node,
                            Istio__Security__Authorization *ret);

/* {mode: REGISTRY_ONLY}. 0, -EBADMSG with the place in the decoder's error, or -ENOMEM. */
int mesh_file_decode_outbound_policy(struct decode *d, const struct yaml_node *node,
                                     enum outbound_policy *ret);

/* Any names and values; some of them are ours. into: struct mesh_annotations *, of which stays what none
 * says. 0, -EBADMSG or -ENOMEM. */
int mesh_file_read_annotations(struct decode *d, const struct yaml_node *node,
                               const struct decode_field *field, void *into);
/* Readers that workloads and services share; as decode_field says. {80: 8080}. into: size_t * with the
 * pointer to Istio__Workload__Port ** behind it. more not NULL: the target may be 0, for each endpoint says
 * its own. 0, -EBADMSG or -ENOMEM. */
int mesh_file_read_ports(struct decode *d, const struct yaml_node *node, const struct decode_field *field,
                         void *into);
/* {destination, hboneMtlsPort}. into: Istio__Workload__GatewayAddress **. 0, -EBADMSG or -ENOMEM. */
int mesh_file_read_gateway(struct decode *d, const struct yaml_node *node, const struct decode_field *field,
                           void *into);

#endif
