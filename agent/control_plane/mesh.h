/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the mesh is, as one machine's mesh file says it, and the control plane that serves it to the proxies.
 * mesh_source.c asks here whether a pod belongs to the mesh and as whom, and reports which pods the agent
 * holds on this node. One thread: everything runs on the loop given to mesh_new().
 */
#ifndef AGENT_CONTROL_PLANE_MESH_H
#define AGENT_CONTROL_PLANE_MESH_H

#include <cjson/cJSON.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "agent/agent_settings.h"
#include "bruma/maps.h"
#include "lib/addr.h"
#include "lib/loop.h"
#include "lib/mesh_file/mesh_file.h"

struct mesh;

/* A pod that lives on this node. Strings and addresses are copied. */
struct mesh_local_pod {
    const char *uid, *namespace, *name;
    struct addr addresses[BRUMA_POD_ADDRESSES];
    int addresses_len;
    bool enrolled; /* its capture is verified: only then may HBONE be announced for it */
};

/* Called on the loop, never from inside a mesh_ function, when answers of the queries below may have
 * changed. */
typedef void (*mesh_changed_fn)(void *data);

/*
 * Reads the mesh file, follows its changes, opens the control plane on loopback. settings stays the caller's
 * and outlives the mesh. A mesh file that is missing or wrong is not an error here: mesh_ready() is false
 * until a good one was read. Returns 0, or -errno of sockets, of the CA's key, of memory, logged.
 */
int mesh_new(struct loop *loop, const struct agent_settings *settings, mesh_changed_fn changed, void *data,
             struct mesh **ret);
void mesh_free(struct mesh **mesh);

/* A good mesh file has been read; the last good one counts for as long as a newer one is wrong. */
bool mesh_ready(const struct mesh *mesh);
/* Of the last try to read the file; "" if it was good (never NULL). The mesh's, until the next try. */
const char *mesh_error(const struct mesh *mesh);
/* The namespace carries istio.io/dataplane-mode=ambient. Unknown namespaces do not. */
bool mesh_namespace_ambient(const struct mesh *mesh, const char *namespace);
/* The mode that the file gives the pod by a label of its own; UNSET for one that it does not name. */
enum mesh_mode mesh_pod_mode(const struct mesh *mesh, const char *namespace, const char *pod);

/* Of the pod's annotation, else its namespace's, else of the mesh: UNSAID if the file says nothing. *ret_why
 * says by what, in any case: a static text. */
enum outbound_policy mesh_outbound_policy(const struct mesh *mesh, const char *namespace, const char *pod,
                                          const char **ret_why);
/* What the pod's annotations say of direct ways, else its namespace's. */
struct direct_switches mesh_direct(const struct mesh *mesh, const char *namespace, const char *pod);

/* Calls fn for each namespace that the file names, before it returns; has_ambient_pods: it names a pod there
 * that is in the mesh by its own label. */
void mesh_each_namespace(const struct mesh *mesh,
                         void (*fn)(void *data, const char *name, bool ambient, bool has_ambient_pods),
                         void *data);

/* Writes the service account of the pod; "default" for a pod the file does not name. -ENAMETOOLONG if it does
 * not fit. */
int mesh_service_account(const struct mesh *mesh, const char *namespace, const char *pod, char *buf,
                         size_t size);
/* The setting, never NULL; it lives as long as the mesh. */
const char *mesh_trust_domain(const struct mesh *mesh);

/* Tells of a pod or of a change to it; repeating the same is harmless. 0 or -ENOMEM. */
int mesh_set_local_pod(struct mesh *mesh, const struct mesh_local_pod *pod);
/* Its pod is gone from the node, or was never there. */
void mesh_remove_local_pod(struct mesh *mesh, const char *uid);
/* The pod is being enrolled: the node may have its certificate from now on, so that it is there for the first
 * connection. Nothing is announced before mesh_set_local_pod(). 0 or -ENOMEM. */
int mesh_expect_pod(struct mesh *mesh, const struct mesh_local_pod *pod);

/* How many calls of clients of the control plane were reset since nothing moved. */
uint64_t mesh_stalls(const struct mesh *mesh);

/* For `bruma-agent --uninstall`: removes the files that mesh_new() has made in the run directory. No agent
 * runs. */
void mesh_uninstall(const struct agent_settings *settings);

/* Adds keys about the file, the control plane and the CA to the object of `brumactl status`:
 * meshFile, meshReady, meshError, meshLoadedAt, namespaces, workloads, services, policies, xdsAddress,
 * xdsClients, caSubject, caNotAfter. */
void mesh_report(const struct mesh *mesh, cJSON *object);
/* How many connections to the control plane were closed or refused because there were too many. */
uint64_t mesh_turned_away(const struct mesh *mesh);

#endif
