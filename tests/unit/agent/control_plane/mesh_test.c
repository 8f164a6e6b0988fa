/* SPDX-License-Identifier: Apache-2.0 */
/* What is announced of workloads and answered about pods, by the file and by what the node knows. */
#include "agent/control_plane/mesh.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "agent/control_plane/mesh_file_watch.h"
#include "agent/control_plane/mesh_local.h"
#include "lib/mesh_file/mesh_file.h"
#include "lib/proto/workload.pb-c.h"

static struct mesh_file *parse(const char *text)
{
    struct mesh_file_error error;
    struct mesh_file *file = NULL;

    cr_assert(mesh_file_parse("mesh.yaml", text, strlen(text), "cluster.local", &file, &error) == 0, "%s",
              error.text);
    return file;
}

/* ---- the protocol ---- */

struct row {
    const char *namespace_labels; /* NULL: the file does not list the namespace */
    const char *pod_labels, *protocol;
    int enrolled; /* -1: no pod of this node */
    bool hbone;
};

#define AMBIENT "istio.io/dataplane-mode: ambient"
#define NONE    "istio.io/dataplane-mode: none"
#define OTHER   "istio.io/dataplane-mode: sidecar"

static const struct row rows[] = {
    /* of other nodes: the file's word */
    {AMBIENT, "", "", -1, true},
    {AMBIENT, "", "protocol: HBONE", -1, true},
    {AMBIENT, "", "protocol: TCP", -1, false},
    {"", "", "", -1, false},
    {"", "", "protocol: HBONE", -1, false},
    {NONE, "", "protocol: HBONE", -1, false},
    {OTHER, "", "protocol: HBONE", -1, false},
    {NULL, "", "", -1, false},
    {NULL, "", "protocol: HBONE", -1, true},
    {NULL, "", "protocol: TCP", -1, false},
    {AMBIENT, NONE, "", -1, false},
    {AMBIENT, NONE, "protocol: HBONE", -1, false},
    {NULL, NONE, "protocol: HBONE", -1, false},
    {"", AMBIENT, "", -1, true},
    {NULL, AMBIENT, "", -1, true},
    {NONE, AMBIENT, "", -1, true},
    {AMBIENT, OTHER, "", -1, true},
    {AMBIENT, AMBIENT, "protocol: TCP", -1, false},
    /* of this node: only if it is verified */
    {AMBIENT, "", "", 0, false},
    {AMBIENT, "", "", 1, true},
    {AMBIENT, "", "protocol: HBONE", 0, false},
    {AMBIENT, "", "protocol: TCP", 1, false},
    {AMBIENT, NONE, "", 1, false},
    {"", "", "protocol: HBONE", 1, false},
    {NULL, "", "protocol: HBONE", 1, true},
    {NULL, "", "protocol: HBONE", 0, false},
    {"", AMBIENT, "", 1, true},
};

Test(mesh, hbone_is_announced_if)
{
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        const struct row *row = &rows[i];
        struct mesh_pod pod = {.enrolled = row->enrolled == 1};
        struct mesh_file *file;
        char text[512], namespaces[128] = "";

        if (row->namespace_labels)
            snprintf(namespaces, sizeof(namespaces), "namespaces: [{name: n, labels: {%s}}]\n",
                     row->namespace_labels);
        snprintf(text, sizeof(text), "%sworkloads: [{name: p, namespace: n, labels: {%s}%s%s}]\n", namespaces,
                 row->pod_labels, *row->protocol ? ", " : "", row->protocol);
        file = parse(text);
        cr_expect(mesh_workload_speaks_hbone(file, &file->workloads[0], row->enrolled < 0 ? NULL : &pod) ==
                      row->hbone,
                  "row %zu: %s enrolled %d", i, text, row->enrolled);
        mesh_file_free(&file);
    }
}

/* ---- the fields that the node adds ---- */

static Istio__Workload__Workload *complete(const struct mesh_file *file, const struct mesh_pod *pod,
                                           const char *node)
{
    const struct mesh_workload *w = &file->workloads[0];
    uint8_t bytes[2048];
    size_t len = w->message_len;
    Istio__Workload__Workload *message;

    memcpy(bytes, w->message, len);
    len += mesh_workload_tail(file, w, pod, node, bytes + len);
    message = istio__workload__workload__unpack(NULL, len, bytes);
    cr_assert(message);
    return message;
}

Test(mesh, a_pod_of_this_node_gives_its_addresses_and_node)
{
    struct mesh_file *file = parse("workloads: [{name: p, namespace: n, protocol: HBONE}]\n");
    struct mesh_pod pod = {.addresses_len = 4, .enrolled = true};
    char long_name[MESH_NODE_MAX + 1] = "";
    Istio__Workload__Workload *w;

    memset(long_name, 'n', MESH_NODE_MAX);
    cr_assert(
        addr_parse("10.0.0.1", &pod.addresses[0]) == 0 && addr_parse("fd00::1", &pod.addresses[1]) == 0 &&
        addr_parse("10.0.0.2", &pod.addresses[2]) == 0 && addr_parse("fd00::2", &pod.addresses[3]) == 0);
    w = complete(file, &pod, "node-a");
    cr_assert(w->tunnel_protocol == ISTIO__WORKLOAD__TUNNEL_PROTOCOL__HBONE);
    cr_assert(w->n_addresses == 4 && w->addresses[0].len == 4 && w->addresses[3].len == 16);
    cr_assert(!memcmp(w->addresses[2].data, "\x0a\0\0\2", 4));
    cr_assert(!strcmp(w->node, "node-a"));
    istio__workload__workload__free_unpacked(w, NULL);
    w = complete(file, &pod, long_name);
    cr_assert(!strcmp(w->node, long_name));
    istio__workload__workload__free_unpacked(w, NULL);
    w = complete(file, NULL, "node-a");
    cr_assert(w->n_addresses == 0 && !*w->node, "not of a pod that lives elsewhere");
    istio__workload__workload__free_unpacked(w, NULL);
    mesh_file_free(&file);
}

Test(mesh, what_the_file_says_stays)
{
    struct mesh_file *file =
        parse("workloads: [{name: p, namespace: n, workloadIps: [10.9.9.9], node: there}]\n");
    struct mesh_pod pod = {.addresses_len = 1};
    Istio__Workload__Workload *w;

    cr_assert(addr_parse("10.0.0.1", &pod.addresses[0]) == 0);
    w = complete(file, &pod, "here");
    cr_assert(w->n_addresses == 1 && !memcmp(w->addresses[0].data, "\x0a\x09\x09\x09", 4));
    cr_assert(!strcmp(w->node, "there") && w->tunnel_protocol == ISTIO__WORKLOAD__TUNNEL_PROTOCOL__NONE);
    istio__workload__workload__free_unpacked(w, NULL);
    mesh_file_free(&file);
}

/* ---- the interface, with a file on disk ---- */

static struct loop *loop;
static struct mesh *mesh;
static struct agent_settings settings;
static char directory[] = "/tmp/bruma-mesh-XXXXXX", run_dir[64], mesh_path[64];
static int changes;

static void on_changed(void *data)
{
    changes++;
    loop_stop(loop);
}

static void write_file(const char *text)
{
    FILE *f = fopen(mesh_path, "w");

    cr_assert(f && fputs(text, f) >= 0 && fclose(f) == 0);
}

static void set_up(void)
{
    cr_assert(mkdtemp(directory));
    snprintf(run_dir, sizeof(run_dir), "%s/run", directory);
    snprintf(mesh_path, sizeof(mesh_path), "%s/mesh.yaml", directory);
    cr_assert(loop_new(&loop) == 0);
    settings.run_dir = run_dir;
    settings.mesh_file = mesh_path;
    settings.trust_domain = "example.org";
    settings.node = "node-a";
}

static void tear_down(void)
{
    mesh_free(&mesh);
    loop_free(&loop);
    mesh_uninstall(&settings);
    cr_expect(rmdir(run_dir) == 0, "something is left in the run directory");
    unlink(mesh_path);
    rmdir(directory);
}

TestSuite(mesh_interface, .init = set_up, .fini = tear_down);

static void open_mesh(void)
{
    cr_assert(mesh_new(loop, &settings, on_changed, NULL, &mesh) == 0);
}

static const char *account(const char *pod)
{
    static char buf[64];

    cr_assert(mesh_service_account(mesh, "shop", pod, buf, sizeof(buf)) == 0);
    return buf;
}

static const char example[] = "namespaces: [{name: shop, labels: {" AMBIENT "}}, {name: plain}]\n"
                              "workloads:\n"
                              "- {name: web, namespace: shop, serviceAccount: web-sa}\n"
                              "- {name: off, namespace: shop, labels: {" NONE "}}\n"
                              "- {name: on, namespace: plain, labels: {" AMBIENT "}}\n";

Test(mesh_interface, queries)
{
    char buf[4];

    write_file(example);
    open_mesh();
    cr_assert(mesh_ready(mesh) && changes == 0);
    cr_assert(mesh_namespace_ambient(mesh, "shop") && !mesh_namespace_ambient(mesh, "plain"));
    cr_assert(!mesh_namespace_ambient(mesh, "unknown") && !mesh_namespace_ambient(mesh, ""));
    cr_assert(mesh_pod_mode(mesh, "shop", "web") == MESH_MODE_UNSET);
    cr_assert(mesh_pod_mode(mesh, "shop", "off") == MESH_MODE_NONE);
    cr_assert(mesh_pod_mode(mesh, "plain", "on") == MESH_MODE_AMBIENT);
    cr_assert(mesh_pod_mode(mesh, "plain", "unknown") == MESH_MODE_UNSET);
    cr_assert(!strcmp(account("web"), "web-sa") && !strcmp(account("unknown"), "default"));
    cr_assert(mesh_service_account(mesh, "shop", "web", buf, sizeof(buf)) == -ENAMETOOLONG);
    cr_assert(!strcmp(mesh_trust_domain(mesh), "example.org"));
}

Test(mesh_interface, no_file_then_one_then_a_wrong_one)
{
    cJSON *report = cJSON_CreateObject();

    open_mesh();
    cr_assert(!mesh_ready(mesh) && !mesh_namespace_ambient(mesh, "shop"));
    write_file(example);
    cr_assert(loop_run(loop) == 0 && changes == 1);
    cr_assert(mesh_ready(mesh) && mesh_namespace_ambient(mesh, "shop"));
    write_file("namespaces: [{nmae: shop}]\n");
    write_file("namespaces: [{name: shop}]\n");
    cr_assert(loop_run(loop) == 0 && changes == 2 && !mesh_namespace_ambient(mesh, "shop"));
    mesh_report(mesh, report);
    cr_assert(cJSON_IsTrue(cJSON_GetObjectItem(report, "meshReady")));
    cr_assert(cJSON_GetObjectItem(report, "namespaces")->valueint == 1);
    cr_assert(!strcmp(cJSON_GetObjectItem(report, "meshError")->valuestring, ""));
    cr_assert(!strcmp(cJSON_GetObjectItem(report, "caSubject")->valuestring, "/O=example.org/CN=Bruma root"));
    cJSON_Delete(report);
}

Test(mesh_interface, pods_of_this_node)
{
    struct mesh_local_pod pod = {.uid = "1", .namespace = "shop", .name = "web", .addresses_len = 1};

    write_file(example);
    open_mesh();
    cr_assert(addr_parse("10.0.0.1", &pod.addresses[0]) == 0);
    cr_assert(mesh_expect_pod(mesh, &pod) == 0 && mesh_expect_pod(mesh, &pod) == 0);
    cr_assert(mesh_set_local_pod(mesh, &pod) == 0 && mesh_set_local_pod(mesh, &pod) == 0);
    cr_assert(mesh_expect_pod(mesh, &pod) == 0);
    pod.enrolled = true;
    cr_assert(mesh_set_local_pod(mesh, &pod) == 0);
    pod.name = "renamed";
    cr_assert(mesh_set_local_pod(mesh, &pod) == 0);
    pod.uid = "2";
    cr_assert(mesh_set_local_pod(mesh, &pod) == 0);
    mesh_remove_local_pod(mesh, "1");
    mesh_remove_local_pod(mesh, "1");
    mesh_remove_local_pod(mesh, "never");
    cr_assert(changes == 0);
}

/* ---- the watch ---- */

Test(mesh_interface, a_file_in_a_directory_that_comes_later)
{
    char nested[96], path[128];
    FILE *f;

    snprintf(nested, sizeof(nested), "%s/later", directory);
    snprintf(path, sizeof(path), "%s/mesh.yaml", nested);
    settings.mesh_file = path;
    open_mesh();
    cr_assert(!mesh_ready(mesh));
    cr_assert(mkdir(nested, 0755) == 0);
    f = fopen(path, "w");
    cr_assert(f && fputs(example, f) >= 0 && fclose(f) == 0);
    cr_assert(loop_run(loop) == 0 && mesh_ready(mesh));
    unlink(path);
    rmdir(nested);
}

Test(mesh_interface, keys_and_run_directories_that_cannot_be_used)
{
    settings.ca_key_file = "/nonexistent/key.pem";
    cr_assert(mesh_new(loop, &settings, on_changed, NULL, &mesh) == -ENOENT && !mesh);
    settings.ca_key_file = NULL;
    settings.run_dir = "/proc/bruma-no-such-place";
    cr_assert(mesh_new(loop, &settings, on_changed, NULL, &mesh) < 0 && !mesh);
    settings.run_dir = run_dir;
}
