/* SPDX-License-Identifier: Apache-2.0 */
/* The TCP sockets of a network namespace, as the kernel lists them (sock_diag). */
#ifndef AGENT_STEER_SOCKETS_H
#define AGENT_STEER_SOCKETS_H

#include <stdint.h>

struct socket_seen {
    uint64_t inode;  /* of its descriptors, "socket:[inode]" */
    uint64_t cookie; /* SO_COOKIE */
    uint32_t mark;
    uint16_t port;  /* local */
    uint8_t family; /* AF_INET or AF_INET6 */
};

/* Called from sockets_list(), on its thread; socket is valid during the call. */
typedef void (*socket_seen_fn)(const struct socket_seen *socket, void *data);

/* Calls each for the sockets of both families in these states (bits 1 << TCP_...) whose local port is port;
 * 0: any. 0 or -errno. */
int sockets_list(int netns_fd, uint32_t states, uint16_t port, socket_seen_fn each, void *data);

#endif
