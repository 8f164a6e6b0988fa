/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One worker with one pod, as the control thread makes them, in a network namespace of the test's own. The
 * worker has no thread: its loop runs while the test waits for something (world_until()). Addresses of the
 * namespace are
 *
 *     192.0.2.1  a client           192.0.2.2  the pod           192.0.2.3  somebody outside the mesh
 *
 * and what is not among them is silent, as if it were far away. The pod, shop/web, is one of a CNI agent's:
 * its address is not named, and no program captures its sockets. Its listener for tunnels is that of port
 * 15008, so that a connection to itself goes through the mesh, with both ends of the tunnel on the one
 * worker.
 */
#ifndef TESTS_UNIT_PROXY_CONNECTION_WORKER_WORLD_H
#define TESTS_UNIT_PROXY_CONNECTION_WORKER_WORLD_H

#include "proxy/proxy.h"
#include "proxy/worker/connection.h"

#define WORLD_CLIENT "192.0.2.1"
#define WORLD_POD    "192.0.2.2"
#define WORLD_FAR    "192.0.2.3"
#define WORLD_SILENT "198.51.100.7"

struct world {
    struct proxy proxy;
    struct worker *worker;
    struct pod *pod;
    struct worker_pod *wp; /* NULL once the pod has been removed */
};
extern struct world world;

/* Needs root. source_timeout and policy_timeout are 200 ms. */
void world_begin(void);
void world_end(void);
/* At the end of a test: the pod goes, and all that was taken has been given back. (What fails in a suite's
 * fini is not counted by Criterion.) */
void world_nothing_left(void);
#define WORLD_TEST(suite, name)       \
    static void suite##_##name(void); \
    Test(suite, name)                 \
    {                                 \
        suite##_##name();             \
        world_nothing_left();         \
    }                                 \
    static void suite##_##name(void)

/* A listening socket. port 0: any; it is in ret. */
int world_listen(const char *address, uint16_t port, struct endpoint *ret);
/* A connection of the client's to a listener of the pod's. Returns the client's end; *ret_fd: the accepted
 * one, *ret_client: whose it is. */
int world_connect(int *ret_fd, struct endpoint *ret_client);
/* Runs the worker until it is so; fails the test after some seconds. */
void world_until(bool (*is_so)(void), const char *what);
/* Runs it for that long. */
void world_run(unsigned milliseconds);
/* The mesh state was changed: commits it, and tells the worker as the control thread does. */
void world_commit(bool policies);
/* The pod goes, as the agent or the worker's own end has it. */
void world_delete_pod(void);
void world_end_worker(void);

/* The sum of what the metrics have under that name, or name and labels; 0: nothing. */
double world_metric(const char *text);
unsigned world_waiting(void);
unsigned world_connections(void);

#endif
