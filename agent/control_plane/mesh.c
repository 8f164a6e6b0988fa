/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/control_plane/mesh.h"

#include <errno.h>
#include <malloc.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "agent/control_plane/control_plane.h"
#include "agent/control_plane/mesh_local.h"
#include "agent/mesh_file/mesh_file_watch.h"
#include "bruma/mesh.h"
#include "lib/cleanup.h"

#define LOG_SCOPE "mesh"
#include "lib/log.h"

struct mesh {
    struct loop *loop;
    const struct agent_config *config;
    mesh_changed_fn changed;
    void *data;
    struct control_plane *plane;
    struct mesh_file_watch *watch;
    struct mesh_file *file; /* the last good one; before the first one an empty one that nobody is told of */
    bool ready;
    int64_t loaded_at;                                          /* CLOCK_REALTIME seconds */
    char error[sizeof(((struct mesh_file_error *)NULL)->text)]; /* of the last try; "" if it was good */
    struct reading *reading;                                    /* in a thread, or NULL */
    bool read_again;
    struct list pods; /* struct mesh_pod */
    struct index pods_by_name;
    uint64_t sequence;
};

/* A file that is read beside the loop. */
struct reading {
    struct mesh *mesh; /* NULL: the mesh is gone */
    struct loop *loop;
    pthread_t thread;
    const char *path, *trust_domain;
    struct mesh_file *file;
    struct mesh_file_error error;
    int result;
};

/* ---- pods of this node ---- */

static bool pod_named(const void *item, const void *key)
{
    const struct mesh_pod *pod = item;
    const char *const *names = key;

    return !strcmp(pod->name, names[1]) && !strcmp(pod->namespace, names[0]);
}

static uint64_t pod_hash(const char *namespace, const char *name)
{
    return index_hash_text(index_hash_text(0, namespace), name);
}

/* The newest that is announced: a pod's successor comes before the pod is gone. */
static struct mesh_pod *pod_by_name(const struct mesh *mesh, const char *namespace, const char *name)
{
    const char *const key[] = {namespace, name};
    struct mesh_pod *pod, *newest = NULL;
    size_t position = 0;

    while ((pod = index_next(&mesh->pods_by_name, pod_hash(namespace, name), pod_named, key, &position))) {
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
    content.tail_len = (uint32_t)mesh_workload_tail(file, w, pod, mesh->config->node, tail);
    content.local = pod || !strcmp(w->node, mesh->config->node);
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
    int r = mesh_pod_generate(pod, mesh->config->trust_domain, mesh->config->node, &uid, &message,
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

/* ---- a new file ---- */

static int announce_addresses(struct mesh *mesh, const struct mesh_file *file)
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
        pod->workload = mesh_file_workload(file, pod->namespace, pod->name, mesh->config->node);
    r = announce_policies(mesh, file);
    if (r < 0)
        log_error_errno(r, "policies cannot be announced");
    r = announce_addresses(mesh, file);
    if (r < 0)
        log_error_errno(r, "workloads and services cannot be announced");
    mesh_file_free(&mesh->file);
    mesh->file = file;
    mesh->ready = true;
    mesh->loaded_at = (int64_t)time(NULL);
    mesh->error[0] = '\0';
    log_info("mesh file read\tfile=%s namespaces=%zu workloads=%zu services=%zu policies=%zu",
             mesh->config->mesh_file, file->namespaces_len, file->workloads_len, file->services_len,
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
              mesh->ready ? "the last good one stays" : "pods wait until it can",
              log_quote(quoted, sizeof(quoted), error->text));
}

static void start_reading(struct mesh *mesh);

static void reading_done(void *data)
{
    struct reading *reading = data;
    struct mesh *mesh = reading->mesh;

    if (!mesh) {
        free(reading);
        return;
    }
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
    reading->path = mesh->config->mesh_file;
    reading->trust_domain = mesh->config->trust_domain;
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
    const char *trust_domain = mesh->config->trust_domain;
    const struct mesh_pod *pod;
    bool known = false;

    if (!is_text(trust_domain, id->trust_domain, id->trust_domain_len)) {
        snprintf(why, why_size, "trust domain %.*s is not ours, which is %.100s",
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

int mesh_new(struct loop *loop, const struct agent_config *config, mesh_changed_fn changed, void *data,
             struct mesh **ret)
{
    struct mesh_file_error error;
    struct mesh_file *file = NULL;
    struct mesh *mesh = calloc(1, sizeof(*mesh));
    int r;

    if (!mesh)
        return log_error_errno(-ENOMEM, "no memory for the mesh");
    mesh->loop = loop;
    mesh->config = config;
    mesh->changed = changed;
    mesh->data = data;
    list_init(&mesh->pods);
    mesh->file = calloc(1, sizeof(*mesh->file));
    r = mesh->file ? control_plane_open(loop, config, allows, mesh, &mesh->plane) : -ENOMEM;
    if (r == 0 &&
        (r = mesh_file_watch_open(loop, config->mesh_file, on_file_changed, mesh, &mesh->watch)) < 0)
        log_error_errno(r, "the mesh file cannot be watched\tfile=%s", config->mesh_file);
    if (r < 0) {
        mesh_free(&mesh);
        return r;
    }
    /* The first time not beside the loop: whoever asks next wants an answer. */
    if (mesh_file_load(config->mesh_file, config->trust_domain, &file, &error) == 0)
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
        mesh_file_free(&m->reading->file);
        m->reading->mesh = NULL; /* its last step frees it */
    }
    control_plane_close(&m->plane);
    list_for_each (pod, &m->pods, node) {
        list_del(&pod->node);
        mesh_pod_free(pod);
    }
    index_free(&m->pods_by_name);
    mesh_file_free(&m->file);
    free(m);
    *mesh = NULL;
}

void mesh_uninstall(const struct agent_config *config)
{
    control_plane_uninstall(config);
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
    const struct mesh_workload *w = mesh_file_workload(mesh->file, namespace, pod, mesh->config->node);

    return w ? w->mode : MESH_MODE_UNSET;
}

int mesh_service_account(const struct mesh *mesh, const char *namespace, const char *pod, char *buf,
                         size_t size)
{
    const struct mesh_workload *w = mesh_file_workload(mesh->file, namespace, pod, mesh->config->node);
    const char *account = w ? w->service_account : "default";

    if (strlen(account) >= size)
        return -ENAMETOOLONG;
    snprintf(buf, size, "%s", account);
    return 0;
}

const char *mesh_trust_domain(const struct mesh *mesh)
{
    return mesh->config->trust_domain;
}

static struct mesh_pod *add_pod(struct mesh *mesh, const struct mesh_local_pod *local)
{
    struct mesh_pod *pod = calloc(1, sizeof(*pod));

    if (!pod)
        return NULL;
    pod->uid = strdup(local->uid);
    pod->namespace = strdup(local->namespace);
    pod->name = strdup(local->name);
    if (!pod->uid || !pod->namespace || !pod->name ||
        index_add(&mesh->pods_by_name, pod_hash(local->namespace, local->name), pod) < 0) {
        mesh_pod_free(pod);
        return NULL;
    }
    pod->sequence = ++mesh->sequence;
    pod->workload = mesh_file_workload(mesh->file, pod->namespace, pod->name, mesh->config->node);
    list_add_tail(&mesh->pods, &pod->node);
    return pod;
}

/* What was made for pods of the same name that came before. */
static void forget_others(struct mesh *mesh, const struct mesh_pod *pod)
{
    const char *const key[] = {pod->namespace, pod->name};
    struct mesh_pod *other;
    size_t position = 0;

    while ((other = index_next(&mesh->pods_by_name, pod_hash(pod->namespace, pod->name), pod_named, key,
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
    index_remove(&mesh->pods_by_name, pod_hash(pod->namespace, pod->name), pod);
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

uint64_t mesh_stalls(const struct mesh *mesh)
{
    return control_plane_stalls(mesh->plane);
}

void mesh_report(const struct mesh *mesh, cJSON *object)
{
    struct xds_server *xds = control_plane_xds(mesh->plane);
    const struct ca *ca = control_plane_ca(mesh->plane);

    cJSON_AddStringToObject(object, "meshFile", mesh->config->mesh_file);
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
