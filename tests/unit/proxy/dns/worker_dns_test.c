/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A worker on a thread of its own answers a pod's queries, by UDP and TCP, while the control thread changes
 * the mesh, replaces the pod's socket and reads what pages show. Meant for the sanitizers above all.
 */
#include <criterion/criterion.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include "bruma/mesh.h"
#include "lib/cleanup.h"
#include "lib/log.h"
#include "proxy/connection/outbound.h"
#include "proxy/connection/worker_post.h"
#include "proxy/pod/pod.h"
#include "proxy/pods/pods.h"
#include "proxy/state/rcu.h"
#include "proxy/state/reclaim.h"
#include "tests/unit/proxy/connection/worker_world.h"
#include "tests/unit/proxy/mesh_samples.h"

#define ROUNDS 120
#define HEADER 12

TestSuite(worker_dns, .init = world_begin, .fini = world_end, .timeout = 60);

/* cart.shop, which is always there, and a name that never is */
static const uint8_t known[] = "\x04"
                               "cart\x04shop\x00\x00\x01\x00\x01",
                     unknown[] = "\x07outside\x04test\x00\x00\x01\x00\x01";

struct arrival {
    int fd;
    struct endpoint from, to;
};

static void accept_one(void *data)
{
    struct arrival *a = data;

    outbound_accept(world.wp, a->fd, &a->from, &a->to);
    free(a);
}

static void *run_worker(void *data)
{
    reader_register();
    cr_assert(loop_run(world.worker->loop) == 0);
    reader_unregister();
    return data;
}

/* ---- the pod's side ---- */

static size_t question(uint8_t *buf, uint16_t id, const uint8_t *name, size_t len)
{
    const uint8_t header[HEADER] = {(uint8_t)(id >> 8), (uint8_t)id, 1, 0, 0, 1};

    memcpy(buf, header, HEADER);
    memcpy(buf + HEADER, name, len);
    return HEADER + len;
}

/* One for the mesh's name is an address; the other is never answered by anybody but with a failure. */
static void judge(const uint8_t *answer, ssize_t len, uint16_t first)
{
    uint16_t id = (uint16_t)(answer[0] << 8 | answer[1]);

    cr_assert(len > HEADER && (answer[2] & 0x80), "%zd bytes", len);
    cr_assert(id == first || id == first + 1, "%u", id);
    cr_assert_eq(answer[3] & 15, id == first ? 0 : 2);
    cr_assert_eq(answer[7], id == first ? 1 : 0);
}

static void patience(int fd)
{
    cr_assert(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &(struct timeval){.tv_sec = 10},
                         sizeof(struct timeval)) == 0);
}

static void ask_udp(const struct endpoint *to, uint16_t id)
{
    _cleanup_fd_ int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    struct sockaddr_storage sa;
    socklen_t len = (socklen_t)endpoint_to_sockaddr(to, AF_UNSPEC, &sa);
    uint8_t buf[512];
    size_t n;

    patience(fd);
    n = question(buf, id, known, sizeof(known) - 1);
    cr_assert(sendto(fd, buf, n, 0, (struct sockaddr *)&sa, len) == (ssize_t)n);
    n = question(buf, id + 1, unknown, sizeof(unknown) - 1);
    cr_assert(sendto(fd, buf, n, 0, (struct sockaddr *)&sa, len) == (ssize_t)n);
    for (int i = 0; i < 2; i++)
        judge(buf, recv(fd, buf, sizeof(buf), 0), id);
}

static void read_all(int fd, uint8_t *buf, size_t len)
{
    for (size_t at = 0; at < len;) {
        ssize_t n = recv(fd, buf + at, len - at, 0);

        cr_assert_gt(n, 0, "%zd: %m", n);
        at += (size_t)n;
    }
}

static void ask_tcp(const struct endpoint *server, uint16_t id)
{
    struct arrival *a = calloc(1, sizeof(*a));
    uint8_t buf[512];
    _cleanup_fd_ int fd = -1;

    cr_assert(a != NULL);
    fd = world_connect(&a->fd, &a->from);
    patience(fd);
    a->to = *server;
    cr_assert(loop_post(world.worker->loop, accept_one, a) == 0);
    for (uint16_t i = 0; i < 2; i++) {
        size_t n = i ? question(buf + 2, id + 1, unknown, sizeof(unknown) - 1)
                     : question(buf + 2, id, known, sizeof(known) - 1);

        buf[0] = 0;
        buf[1] = (uint8_t)n;
        cr_assert(send(fd, buf, n + 2, 0) == (ssize_t)n + 2);
    }
    for (int i = 0; i < 2; i++) {
        read_all(fd, buf, 2);
        cr_assert_leq(buf[1], 255);
        size_t n = (size_t)(buf[0] << 8 | buf[1]);

        cr_assert_leq(n, sizeof(buf));
        read_all(fd, buf, n);
        judge(buf, (ssize_t)n, id);
    }
}

/* ---- the control thread's ---- */

static void change_mesh(int round)
{
    struct state *state = world.proxy.state;
    char name[32], address[32];

    snprintf(address, sizeof(address), "10.96.%d.1", round % 250);
    SERVICE(state, .name = "cart", .addresses = {address}, .ports = {{80, 8080}});
    for (int i = 0; i < 6; i++) {
        char key[96];

        snprintf(name, sizeof(name), "s%d", (round + i) % 9);
        snprintf(address, sizeof(address), "10.97.0.%d", (round + i) % 9 + 1);
        snprintf(key, sizeof(key), "shop/%s.shop.svc.cluster.local", name);
        if ((round + i) % 3)
            SERVICE(state, .name = name, .addresses = {address}, .ports = {{80, 8080}});
        else
            state_remove(state, STATE_ADDRESS, key);
    }
    state_commit(state);
    worker_state_changed(world.worker, true);
}

static int open_socket(const struct endpoint *at)
{
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), on = 1;
    struct sockaddr_storage sa;
    socklen_t len = (socklen_t)endpoint_to_sockaddr(at, AF_UNSPEC, &sa);

    cr_assert(setsockopt(fd, IPPROTO_IP, IP_PKTINFO, &on, sizeof(on)) == 0);
    cr_assert(bind(fd, (struct sockaddr *)&sa, len) == 0);
    return fd;
}

static void look_at_pages(void)
{
    struct dns_server servers[DNS_SERVERS_MAX];

    dns_servers_list(&world.pod->dns_servers, servers);
    cr_assert_geq(world_metric("istio_dns_requests_total"), 0);
}

Test(worker_dns, what_is_changed_meanwhile)
{
    struct endpoint at = {.port = BRUMA_PORT_DNS_LISTEN}, server = {.port = BRUMA_PORT_DNS};
    _cleanup_fd_ int own = -1;
    pthread_t thread;

    log_set_filter("off");
    world.proxy.settings.dns_timeout = 100;
    world.pod->redirected = false;
    cr_assert(addr_parse(WORLD_FAR, &at.addr) == 0);
    server.addr = at.addr;
    own = open_socket(&at);
    change_mesh(0);
    cr_assert(pods_set_dns(&world.proxy, "1", dup(own), -1) == 0);
    world_run(10);
    reader_offline(); /* the only writer, as the control thread */
    cr_assert(pthread_create(&thread, NULL, run_worker, NULL) == 0);
    for (int round = 0; round < ROUNDS; round++) {
        uint16_t id = (uint16_t)(4 * round);

        ask_udp(&at, id);
        ask_tcp(&server, id + 2);
        change_mesh(round);
        look_at_pages();
        if (round % 8 == 7)
            cr_assert(pods_set_dns(&world.proxy, "1", dup(own), -1) == 0);
        if (round % 16 == 15)
            reclaim_wait();
    }
    loop_stop(world.worker->loop);
    cr_assert(pthread_join(thread, NULL) == 0);
    reclaim_wait();
    reader_online(); /* world_end() runs the worker here */
    cr_expect_eq(world_metric("istio_dns_requests_total"), 4 * ROUNDS);
    cr_expect_eq(world_metric("istio_dns_upstream_requests_total"), 2 * ROUNDS);
    cr_expect_eq(world_metric("istio_dns_upstream_failures_total"), 2 * ROUNDS);
    world.pod->redirected = true;
    world_nothing_left();
    cr_expect_eq(atomic_load(&world.pod->questions), 0);
}
