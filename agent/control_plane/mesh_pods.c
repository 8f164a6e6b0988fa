/* SPDX-License-Identifier: Apache-2.0 */
/* Pods of this node, and what is announced of them and of the file's workloads and services. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent/control_plane/mesh_private.h"

#define LOG_SCOPE "mesh"
#include "lib/log.h"

/* ---- pods of this node ---- */

static bool pod_named(const void *item, const void *key)
{
    const struct mesh_pod *pod = item;
    const char *const *names = key;

    return !strcmp(pod->name, names[1]) && !strcmp(pod->namespace, names[0]);
}

static uint64_t pod_hash(const char *namespace, const char *name)
{
    return item_index_hash_text(item_index_hash_text(0, namespace), name);
}

/* The newest that is announced: a pod's successor comes before the pod is gone. */
static struct mesh_pod *pod_by_name(const struct mesh *mesh, const char *namespace, const char *name)
{
    const char *const key[] = {namespace, name};
    struct mesh_pod *pod, *newest = NULL;
    size_t position = 0;

    while (
        (pod = item_index_next(&mesh->pods_by_name, pod_hash(namespace, name), pod_named, key, &position))) {
        if (!pod->expected && (!newest || pod->sequence > newest->sequence))
            newest = pod;
    }
    return newest;
}

static struct mesh_pod *pod_by_uid(const struct mesh *mesh, const char *uid)
{
    struct mesh_pod *pod;

    list_for_each (pod, &mesh->pods, node) {
        if (!strcmp(pod->uid, uid))
            return pod;
    }
    return NULL;
}

/* ---- what is announced ---- */

static struct xds_resources *addresses_of(const struct mesh *mesh)
{
    return xds_server_resources(control_plane_xds(mesh->plane), XDS_ADDRESS);
}

static int announce_workload(struct mesh *mesh, const struct mesh_file *file, const struct mesh_workload *w)
{
    struct mesh_pod *pod = pod_by_name(mesh, w->namespace, w->name);
    uint8_t tail[MESH_TAIL_MAX];
    struct xds_content content = {.name = w->uid,
                                  .message = w->message,
                                  .message_len = w->message_len,
                                  .tail = tail,
                                  .wrap = XDS_WORKLOAD};
    int r;

    if (pod && pod->workload != w)
        pod = NULL; /* another workload of that name is the pod's */
    content.tail_len = (uint32_t)mesh_workload_tail(file, w, pod, mesh->settings->node, tail);
    content.local = pod || !strcmp(w->node, mesh->settings->node);
    r = xds_resources_put(addresses_of(mesh), &content);
    return r < 0 ? r : 0;
}

static void forget_generated(struct mesh *mesh, struct mesh_pod *pod)
{
    if (!pod->generated_uid)
        return;
    if (!mesh_file_workload_by_uid(mesh->file, pod->generated_uid))
        xds_resources_remove(addresses_of(mesh), pod->generated_uid);
    free(pod->generated_uid);
    free(pod->generated);
    pod->generated_uid = NULL;
    pod->generated = NULL;
}

static int announce_generated(struct mesh *mesh, const struct mesh_file *file, struct mesh_pod *pod)
{
    char *old_uid = pod->generated_uid;
    uint8_t *old_message = pod->generated;
    struct xds_content content = {.wrap = XDS_WORKLOAD, .local = true};
    char *uid = NULL;
    uint8_t *message = NULL;
    int r = mesh_pod_generate(pod, mesh->settings->trust_domain, mesh->settings->node, &uid, &message,
                              &content.message_len);

    if (r < 0)
        return r;
    pod->generated_uid = uid;
    pod->generated = message;
    pod->generated_len = content.message_len;
    content.name = uid;
    content.message = message;
    r = xds_resources_put(addresses_of(mesh), &content);
    if (r < 0)
        xds_resources_remove(addresses_of(mesh), uid);
    /* Until here the resource pointed into them. */
    free(old_uid);
    free(old_message);
    return r < 0 ? r : 0;
}

static bool needs_generated(const struct mesh *mesh, const struct mesh_file *file, const struct mesh_pod *pod)
{
    char uid[1024];

    if (pod->workload || !mesh_pod_is_member(file, pod) ||
        pod_by_name(mesh, pod->namespace, pod->name) != pod)
        return false;
    /* The file may use the name that ours would have for something else. */
    snprintf(uid, sizeof(uid), "Kubernetes//Pod/%s/%s", pod->namespace, pod->name);
    return !mesh_file_workload_by_uid(file, uid);
}

static void announce_pod(struct mesh *mesh, struct mesh_pod *pod)
{
    int r = 0;

    if (pod->workload)
        r = announce_workload(mesh, mesh->file, pod->workload);
    if (needs_generated(mesh, mesh->file, pod))
        r = announce_generated(mesh, mesh->file, pod);
    else
        forget_generated(mesh, pod);
    if (r < 0)
        log_error_errno(r, "a pod cannot be announced\tpod=\"%s/%s\"", pod->namespace, pod->name);
    xds_server_changed(control_plane_xds(mesh->plane));
}

int mesh_announce_addresses(struct mesh *mesh, const struct mesh_file *file)
{
    struct xds_resources *resources = addresses_of(mesh);
    struct mesh_pod *pod;
    int result = 0, r = 0;

    xds_resources_begin(resources);
    for (size_t i = 0; i < file->services_len; i++) {
        const struct mesh_service *s = &file->services[i];
        const struct xds_content content = {
            .name = s->name, .message = s->message, .message_len = s->message_len, .wrap = XDS_SERVICE};

        r = xds_resources_put(resources, &content);
        result = r < 0 ? r : result;
    }
    for (size_t i = 0; i < file->workloads_len; i++) {
        r = announce_workload(mesh, file, &file->workloads[i]);
        result = r < 0 ? r : result;
    }
    list_for_each (pod, &mesh->pods, node) {
        if (!needs_generated(mesh, file, pod))
            continue;
        r = announce_generated(mesh, file, pod);
        result = r < 0 ? r : result;
    }
    r = xds_resources_end(resources);
    /* What was made for pods that the file names now has just been removed. */
    list_for_each (pod, &mesh->pods, node) {
        if (pod->generated_uid && !needs_generated(mesh, file, pod)) {
            free(pod->generated_uid);
            free(pod->generated);
            pod->generated_uid = NULL;
            pod->generated = NULL;
        }
    }
    return result < 0 ? result : r;
}

/* ---- as the agent tells of them ---- */

static struct mesh_pod *add_pod(struct mesh *mesh, const struct mesh_local_pod *local)
{
    struct mesh_pod *pod = calloc(1, sizeof(*pod));

    if (!pod)
        return NULL;
    pod->uid = strdup(local->uid);
    pod->namespace = strdup(local->namespace);
    pod->name = strdup(local->name);
    if (!pod->uid || !pod->namespace || !pod->name ||
        item_index_add(&mesh->pods_by_name, pod_hash(local->namespace, local->name), pod) < 0) {
        mesh_pod_free(pod);
        return NULL;
    }
    pod->sequence = ++mesh->sequence;
    pod->workload = mesh_file_workload(mesh->file, pod->namespace, pod->name, mesh->settings->node);
    list_add_tail(&mesh->pods, &pod->node);
    return pod;
}

/* What was made for pods of the same name that came before. */
static void forget_others(struct mesh *mesh, const struct mesh_pod *pod)
{
    const char *const key[] = {pod->namespace, pod->name};
    struct mesh_pod *other;
    size_t position = 0;

    while ((other = item_index_next(&mesh->pods_by_name, pod_hash(pod->namespace, pod->name), pod_named, key,
                                    &position))) {
        if (other != pod)
            forget_generated(mesh, other);
    }
}

int mesh_expect_pod(struct mesh *mesh, const struct mesh_local_pod *local)
{
    struct mesh_pod *pod = pod_by_uid(mesh, local->uid);

    if (pod && !strcmp(pod->name, local->name) && !strcmp(pod->namespace, local->namespace))
        return 0;
    if (pod)
        mesh_remove_local_pod(mesh, local->uid);
    pod = add_pod(mesh, local);
    if (!pod)
        return -ENOMEM;
    pod->expected = true;
    return 0;
}

int mesh_set_local_pod(struct mesh *mesh, const struct mesh_local_pod *local)
{
    struct mesh_pod *pod = pod_by_uid(mesh, local->uid);
    int len = local->addresses_len < BRUMA_POD_ADDRESSES ? local->addresses_len : BRUMA_POD_ADDRESSES;

    if (pod && (strcmp(pod->name, local->name) != 0 || strcmp(pod->namespace, local->namespace) != 0)) {
        mesh_remove_local_pod(mesh, local->uid);
        pod = NULL;
    }
    if (pod && !pod->expected && pod->enrolled == local->enrolled && pod->addresses_len == len &&
        !memcmp(pod->addresses, local->addresses, (size_t)len * sizeof(struct addr)))
        return 0;
    if (!pod) {
        pod = add_pod(mesh, local);
        if (!pod)
            return -ENOMEM;
        pod->expected = true;
    }
    if (pod->expected) {
        forget_others(mesh, pod);
        pod->expected = false;
    }
    memcpy(pod->addresses, local->addresses, (size_t)len * sizeof(struct addr));
    pod->addresses_len = len;
    pod->enrolled = local->enrolled;
    announce_pod(mesh, pod);
    return 0;
}

void mesh_remove_local_pod(struct mesh *mesh, const char *uid)
{
    struct mesh_pod *pod = pod_by_uid(mesh, uid), *other;

    if (!pod)
        return;
    item_index_remove(&mesh->pods_by_name, pod_hash(pod->namespace, pod->name), pod);
    list_del(&pod->node);
    forget_generated(mesh, pod);
    other = pod_by_name(mesh, pod->namespace, pod->name);
    if (other)
        announce_pod(mesh, other);
    else if (pod->workload && announce_workload(mesh, mesh->file, pod->workload) < 0)
        log_error("a pod's end cannot be announced\tpod=\"%s/%s\"", pod->namespace, pod->name);
    xds_server_changed(control_plane_xds(mesh->plane));
    mesh_pod_free(pod);
}
