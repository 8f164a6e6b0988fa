/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/proxy/connection/worker_world.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "bruma/mesh.h"
#include "lib/log.h"
#include "proxy/connection/worker_pods.h"
#include "proxy/connection/worker_post.h"
#include "proxy/connection/worker_thread.h"
#include "proxy/memory/memory.h"
#include "proxy/pod/pod.h"
#include "proxy/pods/pods.h"
#include "proxy/state/rcu.h"
#include "tests/unit/proxy/mesh_samples.h"

#define LOOK_MILLISECONDS 10
#define PATIENCE          5000
#define WAIT_TIMEOUT      200

struct world world;

/* ---- sockets ---- */

int world_listen(const char *address, uint16_t port, struct endpoint *ret)
{
    struct endpoint at = {.port = port};
    struct sockaddr_storage sa;
    socklen_t len;
    int fd;

    cr_assert(addr_parse(address, &at.addr) == 0);
    fd = socket(addr_is_v4(&at.addr) ? AF_INET : AF_INET6, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    len = (socklen_t)endpoint_to_sockaddr(&at, AF_UNSPEC, &sa);
    cr_assert(bind(fd, (struct sockaddr *)&sa, len) == 0 && listen(fd, 16) == 0);
    len = sizeof(sa);
    cr_assert(getsockname(fd, (struct sockaddr *)&sa, &len) == 0);
    cr_assert(endpoint_from_sockaddr((struct sockaddr *)&sa, ret) == 0);
    return fd;
}

int world_connect(int *ret_fd, struct endpoint *ret_client)
{
    int client = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), listener;
    struct endpoint to, from = {};
    struct sockaddr_storage sa;
    socklen_t len;

    listener = world_listen(WORLD_POD, 0, &to);
    cr_assert(addr_parse(WORLD_CLIENT, &from.addr) == 0);
    len = (socklen_t)endpoint_to_sockaddr(&from, AF_UNSPEC, &sa);
    cr_assert(bind(client, (struct sockaddr *)&sa, len) == 0);
    len = (socklen_t)endpoint_to_sockaddr(&to, AF_UNSPEC, &sa);
    cr_assert(connect(client, (struct sockaddr *)&sa, len) == 0);
    len = sizeof(sa);
    *ret_fd = accept4(listener, (struct sockaddr *)&sa, &len, SOCK_NONBLOCK | SOCK_CLOEXEC);
    cr_assert(*ret_fd >= 0 && endpoint_from_sockaddr((struct sockaddr *)&sa, ret_client) == 0);
    close(listener);
    return client;
}

/* ---- time ---- */

static struct look {
    struct loop_timer timer;
    bool (*is_so)(void);
    uint64_t limit, until; /* loop_now(), which is old before the first turn */
    bool met;
} look;

static void on_look(struct loop_timer *timer)
{
    struct loop *loop = world.worker->loop;

    if (!look.until)
        look.until = loop_now(loop) + look.limit;
    look.met = look.is_so && look.is_so();
    if (look.met || loop_now(loop) >= look.until)
        loop_stop(loop);
    else
        loop_timer_set(loop, timer, LOOK_MILLISECONDS);
}

static bool run(bool (*is_so)(void), uint64_t milliseconds)
{
    struct loop *loop = world.worker->loop;

    look = (struct look){.is_so = is_so, .limit = milliseconds};
    loop_timer_init(&look.timer, on_look);
    loop_timer_set(loop, &look.timer, 0);
    cr_assert(loop_run(loop) == 0);
    return look.met;
}

void world_until(bool (*is_so)(void), const char *what)
{
    cr_assert(run(is_so, PATIENCE), "not within %d ms: %s", PATIENCE, what);
}

void world_run(unsigned milliseconds)
{
    run(NULL, milliseconds);
}

/* ---- what there is ---- */

double world_metric(const char *text)
{
    size_t size, name = strlen(text);
    char *page, *rest, *line;
    FILE *out = open_memstream(&page, &size);
    double sum = 0;

    telemetry_write_metrics(&world.worker->telemetry, 1, out);
    cr_assert(fclose(out) == 0);
    for (line = strtok_r(page, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest)) {
        if (!strncmp(line, text, name) && strchr(" {", line[name]))
            sum += strtod(strrchr(line, ' '), NULL);
    }
    free(page);
    return sum;
}

static unsigned length(const struct list *list)
{
    unsigned n = 0;

    for (const struct list *at = list->next; at != list; at = at->next)
        n++;
    return n;
}

unsigned world_waiting(void)
{
    return length(&world.wp->waiting);
}

unsigned world_connections(void)
{
    return length(&world.wp->connections);
}

/* ---- begin and end ---- */

static bool has_pod(void)
{
    return worker_pod_find(world.worker, world.pod) != NULL;
}

static bool has_no_pod(void)
{
    return !has_pod();
}

static void add_pod(void)
{
    const struct pod_info info = {.uid = "1", .name = "web", .namespace = "shop", .cookie = 1};
    int fds[BRUMA_POD_FD_COUNT];
    enum bruma_reason reason;
    struct endpoint any;
    char error[256];

    fds[BRUMA_POD_FD_NETNS] = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
    for (int i = BRUMA_POD_FD_OUTBOUND; i < BRUMA_POD_FD_COUNT; i++)
        fds[i] = world_listen(WORLD_POD, i == BRUMA_POD_FD_HBONE ? BRUMA_PORT_HBONE : 0, &any);
    cr_assert(pods_add(&world.proxy, &info, fds, &reason, error, sizeof(error)) == 0, "%s", error);
    world.pod = list_first(&world.proxy.pods, struct pod, node);
    pod_ref(world.pod);
    world.pod->redirected = true;
    world_until(has_pod, "the pod is served");
    world.wp = worker_pod_find(world.worker, world.pod);
}

static void on_identity_changed(void *data, struct identity *identity)
{
    (void)data;
    (void)identity;
    if (world.worker)
        worker_state_changed(world.worker, false);
}

void world_begin(void)
{
    const struct identity_config ca = {
        .ca_address = "http://127.0.0.1:1", .cluster_id = "", .changed = on_identity_changed};
    char *argv[] = {(char *)(uintptr_t) "test", NULL};
    struct proxy *p = &world.proxy;
    char error[256];
    int first;

    cr_assert(unshare(CLONE_NEWNET) == 0, "this test needs root: %s", strerror(errno));
    cr_assert(system("ip link set lo up && ip link add out type veth peer name other && "
                     "ip link set out up && ip link set other up && "
                     "ip address add " WORLD_CLIENT "/24 dev out && ip address add " WORLD_POD
                     "/24 dev out && "
                     "ip address add " WORLD_FAR "/24 dev out && ip route add default via 192.0.2.9 && "
                     "ip neighbour add 192.0.2.9 lladdr 02:00:00:00:00:09 dev out") == 0);
    log_set_filter("error");
    cr_assert(proxy_settings_load("", &p->settings, 1, argv, &first, error, sizeof(error)) == 0, "%s", error);
    p->settings.source_timeout = p->settings.policy_timeout = WAIT_TIMEOUT;
    p->settings.max_pod_descriptors = p->settings.max_peer_connections = 1000;
    list_init(&p->pods);
    p->own_netns_fd = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
    p->exempt_map_fd = p->deliveries_map_fd = -1;
    reader_register();
    p->state = sample_state();
    cr_assert(loop_new(&p->loop) == 0);
    cr_assert(identity_store_new(p->loop, &ca, &p->identities) == 0);
    memory_init(p);
    cr_assert(worker_new(p, 0, &world.worker) == 0);
    p->workers = &world.worker;
    p->workers_len = 1;
    worker_serve(world.worker);
    add_pod();
}

void world_commit(bool policies)
{
    state_commit(world.proxy.state);
    worker_state_changed(world.worker, policies);
    world_run(LOOK_MILLISECONDS);
}

void world_delete_pod(void)
{
    pods_delete(&world.proxy, "1");
    world_until(has_no_pod, "the pod is no longer served");
    world.wp = NULL;
}

void world_end_worker(void)
{
    worker_pods_end(world.worker);
    world.wp = NULL;
}

void world_nothing_left(void)
{
    struct proxy *p = &world.proxy;

    if (world.wp)
        world_delete_pod();
    world_run(LOOK_MILLISECONDS);
    cr_assert(atomic_load(&world.pod->descriptors) == 0, "descriptors that are counted: %d",
              atomic_load(&world.pod->descriptors));
    cr_assert(atomic_load(&world.pod->connections) == 0, "connections that are counted: %d",
              atomic_load(&world.pod->connections));
    cr_assert(atomic_load(&world.worker->connections) == 0);
    cr_assert(atomic_load(&p->memory.used) == 0);
}

static void stop(void *data)
{
    loop_stop(data);
}

void world_end(void)
{
    struct proxy *p = &world.proxy;

    pod_unref(world.pod);
    worker_free(world.worker);
    world.worker = NULL;
    /* The control thread's turn: what was posted to it, such as the end of the pod. */
    loop_post(p->loop, stop, p->loop);
    cr_assert(loop_run(p->loop) == 0);
    identity_store_free(&p->identities);
    state_free(&p->state);
    loop_free(&p->loop);
    close(p->own_netns_fd);
    reader_unregister();
}
