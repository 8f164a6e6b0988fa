/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The mesh file: YAML in, the mesh as one machine knows it out. Field names are those of ztunnel's local
 * configuration, and namespaces with their labels; docs/mesh-file.md lists them all. Each workload, service
 * and policy is kept as the protobuf message that goes to the proxies, beside the few fields that the agent
 * itself asks for.
 */
#ifndef LIB_MESH_FILE_MESH_FILE_H
#define LIB_MESH_FILE_MESH_FILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "lib/direct_ways.h"
#include "lib/mesh_file/arena.h"
#include "lib/mesh_file/index.h"
#include "lib/outbound_policy.h"

#define MESH_FILE_MAX_BYTES (256u * 1024 * 1024)

/* text is a whole sentence: "mesh.yaml:14:18: workloads[2].workloadIps[0]: "10.1.1" is not an IP address".
 * line is 0 if no place in the file is to blame. */
struct mesh_file_error {
    unsigned line, column;
    char text[1024];
};

/* Value of the label istio.io/dataplane-mode of a pod (its workload in the mesh file). */
enum mesh_mode {
    MESH_MODE_UNSET, /* no such label, another value, or a workload the file does not name */
    MESH_MODE_AMBIENT,
    MESH_MODE_NONE,
};

enum mesh_protocol {
    MESH_PROTOCOL_DEFAULT, /* HBONE in ambient namespaces */
    MESH_PROTOCOL_HBONE,
    MESH_PROTOCOL_TCP,
};

/* What annotations of a pod (its workload) or of a namespace say. */
struct mesh_annotations {
    enum outbound_policy outbound_policy;
    struct direct_switches direct;
};

/* All strings are never NULL. They and the messages live as long as the struct mesh_file. */
struct mesh_namespace {
    const char *name;
    enum mesh_mode mode;
    struct mesh_annotations annotations;
    uint32_t line;
};

struct mesh_workload {
    const char *uid, *name, *namespace, *service_account, *trust_domain, *node;
    const uint8_t *message; /* istio.workload.Workload without tunnel_protocol */
    uint32_t message_len;
    uint32_t line; /* where its item begins */
    enum mesh_protocol protocol;
    enum mesh_mode mode; /* of its own label */
    struct mesh_annotations annotations;
    bool has_addresses;
};

struct mesh_service {
    const char *name;       /* namespace/hostname */
    const uint8_t *message; /* istio.workload.Service */
    uint32_t message_len;
    uint32_t line;
};

struct mesh_policy {
    const char *name;       /* namespace/name */
    const uint8_t *message; /* istio.security.Authorization */
    uint32_t message_len;
    uint32_t line;
};

struct mesh_file {
    struct mesh_namespace *namespaces;
    struct mesh_workload *workloads;
    struct mesh_service *services;
    struct mesh_policy *policies;
    enum outbound_policy outbound_policy; /* of the mesh */
    size_t namespaces_len, workloads_len, services_len, policies_len;

    /* private */
    struct arena arena;
    struct item_index namespaces_by_name, workloads_by_uid, workloads_by_name, services_by_name,
        policies_by_name;
};

/*
 * Reads the whole file. trust_domain: of workloads that name none. 0; -EBADMSG, -ENOENT and so on with
 * error->text filled. An empty file is an error: it is what a file is while somebody writes it.
 */
int mesh_file_load(const char *path, const char *trust_domain, struct mesh_file **ret,
                   struct mesh_file_error *error);
/* As mesh_file_load(), for text in memory; origin names it in errors. */
int mesh_file_parse(const char *origin, const void *text, size_t len, const char *trust_domain,
                    struct mesh_file **ret, struct mesh_file_error *error);
/* As mesh_file_load(), 0 or -errno, for what is only a part of a mesh: services and policies that a workload
 * names may be elsewhere. */
int mesh_file_load_part(const char *path, const char *trust_domain, struct mesh_file **ret,
                        struct mesh_file_error *error);
/* As mesh_file_parse(), 0 or -errno, for such a part. */
int mesh_file_parse_part(const char *origin, const void *text, size_t len, const char *trust_domain,
                         struct mesh_file **ret, struct mesh_file_error *error);
void mesh_file_free(struct mesh_file **file);

/* Of all three lookups: what they return is the file's; NULL if the file does not name it. */
const struct mesh_namespace *mesh_file_namespace(const struct mesh_file *file, const char *name);
/* The workload of a pod, the file's, or NULL. Of several with this name (on other nodes, in other clusters)
 * the one on node, else the first that names no node, else the first. */
const struct mesh_workload *mesh_file_workload(const struct mesh_file *file, const char *namespace,
                                               const char *name, const char *node);
/* The file's, or NULL. */
const struct mesh_workload *mesh_file_workload_by_uid(const struct mesh_file *file, const char *uid);

#endif
