/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/agent/proxies/zds_site.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "agent/control_plane/mesh_source.h"
#include "agent/enroll/enroll.h"
#include "agent/enroll/source.h"
#include "agent/enroll/watchdog.h"
#include "lib/netns.h"
#include "lib/seqpacket.h"
#include "lib/zds.h"
#include "tests/unit/agent/agent_doubles.h"

static struct agent_settings settings = {.node = "node-a",
                                         .source = "file",
                                         .pin_dir = "/nowhere",
                                         .trust_domain = "cluster.local",
                                         .verify_interval = 3600000,
                                         .drain_grace = 50,
                                         .adopt_wait = 50,
                                         .proxy_drain = 5000};
struct agent agent;
struct zds_server *server;
struct pod *web;
char directory[64];
static char socket_path[96];
char told[2048];

static int listeners_opened(void *data, struct pod *pod, const int listeners[BRUMA_LISTENER_COUNT],
                            struct steer_error *error)
{
    return enroll_listeners_opened(data, pod, listeners, error);
}

static void answered(void *data, struct pod *pod, enum bruma_reason reason, const char *error)
{
    enroll_answered(data, pod, reason, error);
}

static void drained(void *data, struct pod *pod)
{
    enroll_drained(data, pod);
}

static void serves(void *data)
{
    enroll_reconcile_all(data);
}

static void gone(void *data)
{
    enroll_proxy_gone(data);
}

struct pod *new_pod(const char *uid, const char *name, const char *ip)
{
    int own = netns_open_own(), fd;
    struct pod *pod;
    uint64_t cookie;
    char path[64];

    cr_assert(unshare(CLONE_NEWNET) == 0, "this test needs root: %s", strerror(errno));
    fd = netns_open_own();
    cr_assert(netns_enter(own) == 0);
    close(own);
    cr_assert(netns_cookie(fd, &cookie) == 0);
    cr_assert(enroll_pod_new(&agent.pods, uid, "shop", name, &pod) == 0);
    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    cr_assert(pod_set_sandbox(pod, uid, path, cookie) == 0);
    cr_assert(addr_parse(ip, &pod->addresses[0]) == 0);
    pod->addresses_len = 1;
    return pod;
}

void zds_setup(void)
{
    const struct proxies_events events = {.listeners_opened = listeners_opened,
                                          .answered = answered,
                                          .drained = drained,
                                          .serves = serves,
                                          .gone = gone,
                                          .data = &agent};

    strcpy(directory, "/tmp/bruma-unit-XXXXXX");
    cr_assert(mkdtemp(directory) != NULL);
    snprintf(socket_path, sizeof(socket_path), "%s/made/ztunnel.sock", directory);
    settings.run_dir = directory;
    settings.zds_socket = socket_path;
    settings.cgroup = directory;
    agent.settings = &settings;
    agent.verify_pod = watchdog_verify_now;
    pods_init(&agent.pods);
    cr_assert(loop_new(&agent.loop) == 0);
    cr_assert(mesh_source_open(agent.loop, &settings, NULL, NULL, &agent.source) == 0);
    cr_assert(store_open(directory, "boot-1", &agent.store) == 0);
    proxy_cgroups_open(&agent.proxy_cgroups, agent.loop, NULL, settings.cgroup);
    cr_assert(zds_server_new(agent.loop, &settings, &agent.pods, &agent.proxy_cgroups, &events,
                             &agent.proxies) == 0);
    server = (struct zds_server *)agent.proxies;
    web = new_pod("uid-web", "web", "10.0.0.1");
}

void zds_teardown(void)
{
    char path[96];

    proxies_free(&agent.proxies);
    cr_expect(access(socket_path, F_OK) < 0, "the socket's file must go");
    proxy_cgroups_close(&agent.proxy_cgroups);
    enroll_pods_free(&agent.pods);
    source_close(&agent.source);
    store_wipe(&agent.store);
    loop_free(&agent.loop);
    snprintf(path, sizeof(path), "%s/made", directory);
    rmdir(path);
    rmdir(directory);
}

static void stop(struct loop_timer *timer)
{
    (void)timer;
    loop_stop(agent.loop);
}

void run(unsigned milliseconds)
{
    struct loop_timer timer;

    loop_timer_init(&timer, stop);
    loop_timer_set(agent.loop, &timer, milliseconds);
    cr_assert(loop_run(agent.loop) == 0);
}

struct proxy_end proxy_new(int pid, bool greet)
{
    struct proxy_end e;
    uint8_t buf[ZDS_MESSAGE_MAX];
    int pair[2];

    cr_assert(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) == 0);
    e.fd = pair[0];
    e.peer = zds_peer_new(server, pair[1], pid, pidfd_open(getpid(), 0));
    cr_assert(e.peer != NULL);
    if (greet)
        cr_assert(seqpacket_send(e.fd, buf, (size_t)zds_hello_encode(buf), NULL, 0) == 0);
    return e;
}

bool answer(struct proxy_end *e, const char *error)
{
    char buf[ZDS_MESSAGE_MAX + 1];
    _cleanup_zds_request_ struct zds_request request = {0};
    uint8_t response[ZDS_MESSAGE_MAX];
    int fds[2] = {-1, -1};
    size_t fds_len, len = strlen(told);
    ssize_t n = seqpacket_receive(e->fd, buf, sizeof(buf), fds, 2, &fds_len);

    if (n == -EAGAIN)
        return false;
    if (n <= 0) {
        snprintf(told + len, sizeof(told) - len, "%sEND", len ? " " : "");
        return false;
    }
    cr_assert(zds_request_decode(buf, (size_t)n, &request) == 0);
    cr_expect(fds_len == (request.kind == ZDS_ADD ? 1 : 0), "%s with %zu descriptors",
              zds_request_kind_name(request.kind), fds_len);
    cr_expect(request.kind != ZDS_ADD || (request.has_info && netns_check(fds[0]) == 0));
    close_fds(fds, fds_len);
    snprintf(told + len, sizeof(told) - len, "%s%s%s%s", len ? " " : "", zds_request_kind_name(request.kind),
             request.uid ? "=" : "", request.uid ? request.uid : "");
    /* only one message waits at a time */
    cr_expect(seqpacket_receive(e->fd, buf, sizeof(buf), fds, 2, &fds_len) <= 0);
    if (error)
        seqpacket_send(e->fd, response, (size_t)zds_response_encode(error, response), NULL, 0);
    return true;
}

void obey(struct proxy_end *e, unsigned milliseconds)
{
    for (unsigned i = 0; i < milliseconds / 20; i++) {
        run(1);
        while (answer(e, ""))
            run(1);
    }
}

void expect_told(const char *expected)
{
    cr_expect(strcmp(told, expected) == 0, "told: %s; expected: %s", told, expected);
    told[0] = '\0';
}

void expect_ended(struct proxy_end *e)
{
    run(20);
    told[0] = '\0';
    while (answer(e, NULL))
        ;
    cr_expect(strstr(told, "END") != NULL, "the connection must be over: %s", told);
    cr_expect(server->peers_len == 0);
    told[0] = '\0';
}

struct proxy_end serving(int pid)
{
    struct proxy_end e = proxy_new(pid, true);

    /* No pod is enrolled by this. */
    namespace_is_ambient = false;
    obey(&e, 60);
    namespace_is_ambient = true;
    cr_assert(zds_find_serving(server) == e.peer);
    return e;
}
