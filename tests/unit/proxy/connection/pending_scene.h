/* SPDX-License-Identifier: Apache-2.0 */
/* What tests of connections that wait do and see, in a world of one worker (worker_world.h). What is not so
 * fails the test. */
#ifndef TESTS_UNIT_PROXY_CONNECTION_PENDING_SCENE_H
#define TESTS_UNIT_PROXY_CONNECTION_PENDING_SCENE_H

#include "proxy/pods/pods.h"
#include "tests/unit/proxy/connection/worker_world.h"
#include "tests/unit/proxy/mesh_samples.h"

#define FAILURES(reason) world_metric("bruma_failures_total{reason=\"" reason "\"}")
#define OPENED           world_metric("istio_tcp_connections_opened_total")
#define CLOSED           world_metric("istio_tcp_connections_closed_total")
#define POLICY_WAITS     world_metric("bruma_policy_waits_total")

extern int client, server, listener; /* -1: there is none; closed by scene_end() */

void scene_begin(void);
void scene_end(void);

/* The application's connection to that address; port 0: the one of listener, which is made. */
void go_out(const char *address, uint16_t port);
/* A connection from outside to that port of the pod; 0: the one of listener, which is its application. */
void come_in(uint16_t port);

void mesh_knows_the_pod(const char *policy); /* NULL: no policy is named */
void mesh_knows_a_peer(void);                /* at WORLD_SILENT, with tunnels */
void mesh_has_policy(bool allows);           /* shop/rule: everybody, or nobody */
/* The mesh knows both, and a certificate for the pod is asked for. */
void knows_who_it_is(void);
void certificate_comes(void);

/* For world_until(): listener has a connection, which is server; a byte that client has sent has come back
 * from there; client was reset; there is no connection. */
bool served(void);
bool passes(void);
bool was_reset(void);
bool none_left(void);

/* One connection, which waits. */
void waits(void);
/* The client is reset, and nothing is left of its connection. */
void is_refused(void);
/* A byte goes there and back, then both end, and that was the first connection of all. */
void is_a_relay(void);

#endif
