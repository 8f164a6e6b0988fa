/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What is announced of workloads: the file's word, and what the node knows better about its own pods.
 * Functions of their arguments only.
 */
#ifndef AGENT_CONTROL_PLANE_MESH_LOCAL_H
#define AGENT_CONTROL_PLANE_MESH_LOCAL_H

#include "bruma/maps.h"
#include "lib/addr.h"
#include "lib/list.h"
#include "lib/mesh_file/mesh_file.h"

#define MESH_NODE_MAX 253 /* bytes of a node's name; a longer one is not announced */
#define MESH_TAIL_MAX (2 + BRUMA_POD_ADDRESSES * 18 + 3 + MESH_NODE_MAX)

/* A pod of this node. */
struct mesh_pod {
    struct list node;
    char *uid, *namespace, *name;
    struct addr addresses[BRUMA_POD_ADDRESSES];
    int addresses_len;
    bool enrolled;
    bool expected;                        /* it may have a certificate, and nothing is announced of it yet */
    uint64_t sequence;                    /* the newest of several pods with one name counts */
    const struct mesh_workload *workload; /* of the file; NULL if it names none */
    char *generated_uid;                  /* of the workload made for it; NULL: none is announced */
    uint8_t *generated;
    uint32_t generated_len;
};

/* The label of the workload, of its namespace, and for a namespace that the file does not list the
 * protocol. */
bool mesh_workload_is_member(const struct mesh_file *file, const struct mesh_workload *workload);
/* HBONE may be announced: a member that the file does not call TCP, and if it is a pod of this node (else
 * NULL), one whose capture is verified. */
bool mesh_workload_speaks_hbone(const struct mesh_file *file, const struct mesh_workload *workload,
                                const struct mesh_pod *pod);
/* The fields that the file's message lacks: protocol, and of a pod of this node its addresses and its node.
 * Returns how many bytes. */
size_t mesh_workload_tail(const struct mesh_file *file, const struct mesh_workload *workload,
                          const struct mesh_pod *pod, const char *node, uint8_t tail[MESH_TAIL_MAX]);
/* The pod is in the mesh, or on its way out of it. */
bool mesh_pod_is_member(const struct mesh_file *file, const struct mesh_pod *pod);

/* The workload of a pod that the file does not name: uid and message, both freed by the caller. 0 or
 * -ENOMEM. */
int mesh_pod_generate(const struct mesh_pod *pod, const char *trust_domain, const char *node, char **ret_uid,
                      uint8_t **ret_message, uint32_t *ret_len);
/* Frees it with all that it has; it is in no list any more. */
void mesh_pod_free(struct mesh_pod *pod);

#endif
