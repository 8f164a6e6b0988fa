/* SPDX-License-Identifier: Apache-2.0 */
/* A proxy without workers that has a mesh and a pod, and events as the kernel would tell them. */
#ifndef TESTS_UNIT_PROXY_FLOWS_FLOWS_SITE_H
#define TESTS_UNIT_PROXY_FLOWS_FLOWS_SITE_H

#include "bruma/direct.h"
#include "proxy/flows/flows.h"
#include "tests/unit/proxy/mesh_samples.h"

#define POD_COOKIE   4101u
#define FIRST_SOCKET 9001u

extern struct proxy site_proxy;
/* "cart" of namespace shop, at 10.1.0.7; in the mesh. */
extern struct pod *site_pod;

/* Of each test: the proxy, its loop and its state, where cart, a pod "redis" at 10.1.3.9 and "old"
 * at 10.1.3.4, who takes no tunnels, are known. */
void site_setup(void);
void site_teardown(void);

/* A pod like the one above; unref it. netns: taken, or -1. */
struct pod *site_pod_new(uint64_t cookie, const char *name, int netns);

uint64_t site_nanoseconds(void);

/* Of the pod, at its port 40000 with somebody: "10.9.9.9:80". opened: so many milliseconds ago. */
struct bruma_flow_event site_event(enum bruma_flow_event_kind kind, enum bruma_direct_way way,
                                   const char *remote, unsigned milliseconds);

#endif
