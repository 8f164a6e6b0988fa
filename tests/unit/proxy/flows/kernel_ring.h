/* SPDX-License-Identifier: Apache-2.0 */
/* The maps of direct connections in the kernel, and a program that tells events as the programs of bpf/ do.
 */
#ifndef TESTS_UNIT_PROXY_FLOWS_KERNEL_RING_H
#define TESTS_UNIT_PROXY_FLOWS_KERNEL_RING_H

#include <stdbool.h>

#include "bruma/direct.h"

struct kernel_ring {
    int control, flows, events; /* maps */
    int program;
};

/* False: this kernel, or this user, cannot. */
bool kernel_ring_new(struct kernel_ring *ring);
void kernel_ring_close(struct kernel_ring *ring);

/* Tells it from within the kernel. False: there was no room, which was counted. */
bool kernel_ring_tell(const struct kernel_ring *ring, const struct bruma_flow_event *event);
/* Writes or removes the entry of a live one. */
void kernel_ring_lives(const struct kernel_ring *ring, __u64 socket_cookie, const struct bruma_flow *flow);
void kernel_ring_ends(const struct kernel_ring *ring, __u64 socket_cookie);
struct bruma_direct_control kernel_ring_control(const struct kernel_ring *ring);

#endif
