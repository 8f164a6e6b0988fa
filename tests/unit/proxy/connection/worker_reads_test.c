/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A worker on a thread of its own reads the mesh for the connections that it has, while the control thread
 * changes it: what the worker has found lives as long as it is used. Meant for the sanitizers above all.
 */
#include <criterion/criterion.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "bruma/mesh.h"
#include "lib/log.h"
#include "proxy/connection/outbound.h"
#include "proxy/connection/plaintext.h"
#include "proxy/connection/worker_post.h"
#include "proxy/state/rcu.h"
#include "proxy/state/reclaim.h"
#include "tests/unit/proxy/connection/worker_world.h"
#include "tests/unit/proxy/mesh_samples.h"

#define ROUNDS 150

TestSuite(worker_reads, .init = world_begin, .fini = world_end, .timeout = 60);

struct arrival {
    bool outbound;
    int fd;
    struct endpoint from, to;
};

static atomic_uint accepted;

static void accept_one(void *data)
{
    struct arrival *a = data;

    if (a->outbound)
        outbound_accept(world.wp, a->fd, &a->from, &a->to);
    else
        plaintext_accept(world.wp, a->fd, &a->from, &a->to, &a->to);
    atomic_fetch_add_explicit(&accepted, 1, memory_order_relaxed);
    free(a);
}

static void *run_worker(void *data)
{
    reader_register();
    cr_assert(loop_run(world.worker->loop) == 0);
    reader_unregister();
    return data;
}

/* A client's connection that the worker's thread takes. Returns the client's end. */
static int arrive(bool outbound, const struct endpoint *to)
{
    struct arrival *a = calloc(1, sizeof(*a));
    int client;

    cr_assert(a != NULL);
    client = world_connect(&a->fd, &a->from);
    /* Its end is a reset. */
    cr_assert(setsockopt(client, SOL_SOCKET, SO_LINGER, &(struct linger){.l_onoff = 1},
                         sizeof(struct linger)) == 0);
    a->outbound = outbound;
    a->to = *to;
    cr_assert(loop_post(world.worker->loop, accept_one, a) == 0);
    return client;
}

/* The pod, its policies and where connections go: all of it is replaced, and some of it taken away, each
 * time. */
static void change_mesh(int round)
{
    struct state *state = world.proxy.state;
    char name[32], address[32], uid[64];

    WORKLOAD(state, .name = "web", .node = "node-a", .addresses = {WORLD_POD}, .account = "default",
             .policies = {"shop/rule"}, .capacity = (unsigned)round % 7 + 1);
    POLICY(state, .name = "rule", .scope = 2, .action = round % 2, .rules_len = 1,
           .rules = {{.clauses_len = 1,
                      .clauses = {{.matches_len = 1, .matches = {{.source_ips = {WORLD_CLIENT "/32"}}}}}}});
    SERVICE(state, .name = "cart", .addresses = {"10.96.0.20"}, .ports = {{80, 8080}},
            .mode = (unsigned)(round % 3));
    for (int i = 0; i < 8; i++) {
        snprintf(name, sizeof(name), "w%d", (round + i) % 12);
        snprintf(address, sizeof(address), "198.51.100.%d", (round + i) % 12 + 1);
        snprintf(uid, sizeof(uid), "Kubernetes//Pod/shop/%s", name);
        if ((round + i) % 3)
            WORKLOAD(state, .name = name, .addresses = {address},
                     .services = {{"shop/cart.shop.svc.cluster.local"}});
        else
            state_remove(state, STATE_ADDRESS, uid);
    }
    state_commit(state);
    worker_state_changed(world.worker, true);
}

static void close_arrivals(const int *listeners)
{
    for (size_t i = 0; i < 2; i++) {
        for (int fd; (fd = accept(listeners[i], NULL, NULL)) >= 0;)
            close(fd);
    }
}

/* No connection has a reference then: what the worker has found before goes with the next change. */
static void wait_for_ends(const int *listeners)
{
    for (int tries = 0; atomic_load(&world.worker->connections) && tries < 5000; tries++) {
        close_arrivals(listeners);
        usleep(1000);
    }
    cr_assert(atomic_load(&world.worker->connections) == 0, "%d connections do not end",
              atomic_load(&world.worker->connections));
}

Test(worker_reads, what_is_changed_meanwhile)
{
    struct endpoint far, application, service = sample_endpoint("10.96.0.20:80");
    int listeners[] = {world_listen(WORLD_FAR, 0, &far), world_listen(WORLD_POD, 0, &application)};
    pthread_t thread;

    log_set_filter("off");
    world.proxy.settings.connect_timeout = 300; /* of the addresses that are silent */
    reader_offline();                           /* the only writer, as the control thread */
    cr_assert(pthread_create(&thread, NULL, run_worker, NULL) == 0);
    for (int round = 0; round < ROUNDS; round++) {
        int clients[] = {arrive(true, &far), arrive(true, &service), arrive(false, &application)};

        change_mesh(round);
        for (int tries = 0; atomic_load(&accepted) < 3 * (unsigned)round && tries < 1000; tries++)
            usleep(1000);
        for (size_t i = 0; i < array_size(clients); i++)
            close(clients[i]);
        close_arrivals(listeners);
        if (round % 8 == 7) {
            wait_for_ends(listeners);
            change_mesh(round + 1);
            reclaim_wait();
        }
    }
    for (int tries = 0; atomic_load(&accepted) < 3 * ROUNDS && tries < 5000; tries++)
        usleep(1000);
    loop_stop(world.worker->loop);
    cr_assert(pthread_join(thread, NULL) == 0);
    reclaim_wait();
    reader_online(); /* world_end() runs the worker here */
    cr_expect(atomic_load(&accepted) == 3 * ROUNDS, "%u", atomic_load(&accepted));
    cr_expect(world_metric("istio_tcp_connections_opened_total") > ROUNDS, "%g connections",
              world_metric("istio_tcp_connections_opened_total"));
    for (size_t i = 0; i < array_size(listeners); i++)
        close(listeners[i]);
}
