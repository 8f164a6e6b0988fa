/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/control_plane/mesh.h"

#include <errno.h>
#include <malloc.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "agent/control_plane/mesh_file_watch.h"
#include "agent/control_plane/mesh_private.h"
#include "bruma/mesh.h"
#include "lib/cleanup.h"

#define LOG_SCOPE "mesh"
#include "lib/log.h"

/* A file that is read beside the loop. */
struct reading {
    struct mesh *mesh;
    struct loop *loop;
    pthread_t thread;
    const char *path, *trust_domain;
    struct mesh_file *file;
    struct mesh_file_error error;
    int result;
};

/* ---- a new file ---- */

static int announce_policies(struct mesh *mesh, const struct mesh_file *file)
{
    struct xds_resources *resources = xds_server_resources(control_plane_xds(mesh->plane), XDS_AUTHORIZATION);
    int result = 0, r;

    xds_resources_begin(resources);
    for (size_t i = 0; i < file->policies_len; i++) {
        const struct mesh_policy *p = &file->policies[i];
        const struct xds_content content = {
            .name = p->name, .message = p->message, .message_len = p->message_len, .wrap = XDS_PLAIN};

        r = xds_resources_put(resources, &content);
        result = r < 0 ? r : result;
    }
    r = xds_resources_end(resources);
    return result < 0 ? result : r;
}

/* Takes file. Resources point into the old one until they have all been put again or removed. */
static void use_file(struct mesh *mesh, struct mesh_file *file)
{
    struct mesh_pod *pod;
    int r;

    list_for_each (pod, &mesh->pods, node)
        pod->workload = mesh_file_workload(file, pod->namespace, pod->name, mesh->settings->node);
    r = announce_policies(mesh, file);
    if (r < 0)
        log_error_errno(r, "policies cannot be announced");
    r = mesh_announce_addresses(mesh, file);
    if (r < 0)
        log_error_errno(r, "workloads and services cannot be announced");
    mesh_file_free(&mesh->file);
    mesh->file = file;
    mesh->ready = true;
    mesh->loaded_at = (int64_t)time(NULL);
    mesh->error[0] = '\0';
    log_info("mesh file read\tfile=%s namespaces=%zu workloads=%zu services=%zu policies=%zu",
             mesh->settings->mesh_file, file->namespaces_len, file->workloads_len, file->services_len,
             file->policies_len);
    xds_server_ready(control_plane_xds(mesh->plane));
    /* What reading took beside what it left, and the file before. */
    (void)malloc_trim(0);
}

static void refuse_file(struct mesh *mesh, const struct mesh_file_error *error)
{
    char quoted[sizeof(error->text) + 64];

    if (!strcmp(mesh->error, error->text))
        return;
    snprintf(mesh->error, sizeof(mesh->error), "%s", error->text);
    log_error("the mesh file cannot be used; %s\terror=%s",
              mesh->ready ? "the last good one stays in use" : "pods wait until it can be",
              log_quote(quoted, sizeof(quoted), error->text));
}

static void start_reading(struct mesh *mesh);

static void reading_done(void *data)
{
    struct reading *reading = data;
    struct mesh *mesh = reading->mesh;

    (void)pthread_join(reading->thread, NULL);
    mesh->reading = NULL;
    if (reading->result == 0)
        use_file(mesh, reading->file);
    else
        refuse_file(mesh, &reading->error);
    if (mesh->read_again)
        start_reading(mesh);
    if (reading->result == 0)
        mesh->changed(mesh->data);
    free(reading);
}

static void *read_file(void *data)
{
    struct reading *reading = data;

    reading->result = mesh_file_load(reading->path, reading->trust_domain, &reading->file, &reading->error);
    /* Without memory for this the reading is found when the file changes the next time. */
    while (loop_post(reading->loop, reading_done, reading) < 0)
        nanosleep(&(const struct timespec){.tv_nsec = 100000000}, NULL);
    return NULL;
}

static void start_reading(struct mesh *mesh)
{
    struct reading *reading;
    int r;

    mesh->read_again = mesh->reading != NULL;
    if (mesh->reading)
        return;
    reading = calloc(1, sizeof(*reading));
    if (!reading)
        return;
    reading->mesh = mesh;
    reading->loop = mesh->loop;
    reading->path = mesh->settings->mesh_file;
    reading->trust_domain = mesh->settings->trust_domain;
    r = pthread_create(&reading->thread, NULL, read_file, reading);
    if (r) {
        log_error_errno(r, "no thread to read the mesh file");
        free(reading);
        return;
    }
    mesh->reading = reading;
}

static void on_file_changed(void *data)
{
    start_reading(data);
}

/* ---- certificates ---- */

static bool is_text(const char *text, const char *part, size_t len)
{
    return strlen(text) == len && !memcmp(text, part, len);
}

static bool allows(void *data, const struct spiffe *id, char *why, size_t why_size)
{
    struct mesh *mesh = data;
    const char *trust_domain = mesh->settings->trust_domain;
    const struct mesh_pod *pod;
    bool known = false;

    if (!is_text(trust_domain, id->trust_domain, id->trust_domain_len)) {
        snprintf(why, why_size, "trust domain %.*s is not this mesh's, which is %.100s",
                 (int)(id->trust_domain_len < 100 ? id->trust_domain_len : 100), id->trust_domain,
                 trust_domain);
        return false;
    }
    list_for_each (pod, &mesh->pods, node) {
        if (!is_text(pod->namespace, id->namespace, id->namespace_len) ||
            !is_text(pod->workload ? pod->workload->service_account : "default", id->service_account,
                     id->service_account_len) ||
            (pod->workload && strcmp(pod->workload->trust_domain, trust_domain) != 0))
            continue;
        if (mesh_pod_is_member(mesh->file, pod))
            return true;
        known = true;
    }
    snprintf(why, why_size,
             known ? "the pods of this node with that identity are not in the mesh"
                   : "no pod of this node has that identity");
    return false;
}

/* ---- the interface ---- */

int mesh_new(struct loop *loop, const struct agent_settings *settings, mesh_changed_fn changed, void *data,
             struct mesh **ret)
{
    struct mesh_file_error error;
    struct mesh_file *file = NULL;
    struct mesh *mesh = calloc(1, sizeof(*mesh));
    int r;

    if (!mesh)
        return log_error_errno(-ENOMEM, "no memory for the mesh");
    mesh->loop = loop;
    mesh->settings = settings;
    mesh->changed = changed;
    mesh->data = data;
    list_init(&mesh->pods);
    mesh->file = calloc(1, sizeof(*mesh->file));
    r = mesh->file ? control_plane_open(loop, settings, allows, mesh, &mesh->plane) : -ENOMEM;
    if (r == 0 &&
        (r = mesh_file_watch_open(loop, settings->mesh_file, on_file_changed, mesh, &mesh->watch)) < 0)
        log_error_errno(r, "the mesh file cannot be watched\tfile=%s", settings->mesh_file);
    if (r < 0) {
        mesh_free(&mesh);
        return r;
    }
    /* The first time not beside the loop: whoever asks next wants an answer. */
    if (mesh_file_load(settings->mesh_file, settings->trust_domain, &file, &error) == 0)
        use_file(mesh, file);
    else
        refuse_file(mesh, &error);
    *ret = mesh;
    return 0;
}

void mesh_free(struct mesh **mesh)
{
    struct mesh *m = *mesh;
    struct mesh_pod *pod;

    if (!m)
        return;
    mesh_file_watch_close(&m->watch);
    if (m->reading) {
        (void)pthread_join(m->reading->thread, NULL);
        loop_unpost(m->loop, reading_done, m->reading);
        mesh_file_free(&m->reading->file);
        free(m->reading);
    }
    control_plane_close(&m->plane);
    list_for_each (pod, &m->pods, node) {
        list_del(&pod->node);
        mesh_pod_free(pod);
    }
    item_index_free(&m->pods_by_name);
    mesh_file_free(&m->file);
    free(m);
    *mesh = NULL;
}

void mesh_uninstall(const struct agent_settings *settings)
{
    control_plane_uninstall(settings);
}

bool mesh_ready(const struct mesh *mesh)
{
    return mesh->ready;
}

const char *mesh_error(const struct mesh *mesh)
{
    return mesh->error;
}

bool mesh_namespace_ambient(const struct mesh *mesh, const char *namespace)
{
    const struct mesh_namespace *n = mesh_file_namespace(mesh->file, namespace);

    return n && n->mode == MESH_MODE_AMBIENT;
}

enum mesh_mode mesh_pod_mode(const struct mesh *mesh, const char *namespace, const char *pod)
{
    const struct mesh_workload *w = mesh_file_workload(mesh->file, namespace, pod, mesh->settings->node);

    return w ? w->mode : MESH_MODE_UNSET;
}

enum outbound_policy mesh_outbound_policy(const struct mesh *mesh, const char *namespace, const char *pod,
                                          const char **ret_why)
{
    const struct mesh_workload *w = mesh_file_workload(mesh->file, namespace, pod, mesh->settings->node);
    const struct mesh_namespace *n = mesh_file_namespace(mesh->file, namespace);

    *ret_why = "the annotation of the pod's workload";
    if (w && w->annotations.outbound_policy)
        return w->annotations.outbound_policy;
    *ret_why = "its namespace's annotation";
    if (n && n->annotations.outbound_policy)
        return n->annotations.outbound_policy;
    *ret_why = "outboundTrafficPolicy of the mesh file";
    if (mesh->file->outbound_policy)
        return mesh->file->outbound_policy;
    *ret_why = "nobody says it, so the proxy's settings do";
    return OUTBOUND_UNSAID;
}

struct direct_switches mesh_direct(const struct mesh *mesh, const char *namespace, const char *pod)
{
    const struct mesh_workload *w = mesh_file_workload(mesh->file, namespace, pod, mesh->settings->node);
    const struct mesh_namespace *n = mesh_file_namespace(mesh->file, namespace);
    const struct direct_switches none = {0};

    return direct_switches_join(w ? w->annotations.direct : none, n ? n->annotations.direct : none);
}

static bool has_ambient_pods(const struct mesh_file *file, const char *namespace)
{
    for (size_t i = 0; i < file->workloads_len; i++) {
        if (file->workloads[i].mode == MESH_MODE_AMBIENT && !strcmp(file->workloads[i].namespace, namespace))
            return true;
    }
    return false;
}

void mesh_each_namespace(const struct mesh *mesh,
                         void (*fn)(void *data, const char *name, bool ambient, bool has_ambient_pods),
                         void *data)
{
    for (size_t i = 0; mesh->file && i < mesh->file->namespaces_len; i++) {
        const struct mesh_namespace *n = &mesh->file->namespaces[i];

        fn(data, n->name, n->mode == MESH_MODE_AMBIENT, has_ambient_pods(mesh->file, n->name));
    }
}

int mesh_service_account(const struct mesh *mesh, const char *namespace, const char *pod, char *buf,
                         size_t size)
{
    const struct mesh_workload *w = mesh_file_workload(mesh->file, namespace, pod, mesh->settings->node);
    const char *account = w ? w->service_account : "default";

    if (strlen(account) >= size)
        return -ENAMETOOLONG;
    snprintf(buf, size, "%s", account);
    return 0;
}

const char *mesh_trust_domain(const struct mesh *mesh)
{
    return mesh->settings->trust_domain;
}

uint64_t mesh_stalls(const struct mesh *mesh)
{
    return control_plane_stalls(mesh->plane);
}

void mesh_report(const struct mesh *mesh, cJSON *object)
{
    struct xds_server *xds = control_plane_xds(mesh->plane);
    const struct ca *ca = control_plane_ca(mesh->plane);

    cJSON_AddStringToObject(object, "meshFile", mesh->settings->mesh_file);
    cJSON_AddBoolToObject(object, "meshReady", mesh->ready);
    cJSON_AddStringToObject(object, "meshError", mesh->error);
    cJSON_AddNumberToObject(object, "meshLoadedAt", (double)mesh->loaded_at);
    cJSON_AddNumberToObject(object, "namespaces", (double)mesh->file->namespaces_len);
    cJSON_AddNumberToObject(object, "workloads", (double)mesh->file->workloads_len);
    cJSON_AddNumberToObject(object, "services", (double)mesh->file->services_len);
    cJSON_AddNumberToObject(object, "policies", (double)mesh->file->policies_len);
    cJSON_AddStringToObject(object, "xdsAddress", control_plane_address(mesh->plane));
    cJSON_AddNumberToObject(object, "xdsClients", xds_server_streams(xds));
    cJSON_AddNumberToObject(object, "xdsRefused", (double)xds_server_refused(xds));
    cJSON_AddNumberToObject(object, "xdsStalled", (double)control_plane_stalls(mesh->plane));
    cJSON_AddStringToObject(object, "caSubject", ca_subject(ca));
    cJSON_AddNumberToObject(object, "caNotAfter", (double)ca_not_after(ca));
}

uint64_t mesh_turned_away(const struct mesh *mesh)
{
    return control_plane_turned_away(mesh->plane);
}
