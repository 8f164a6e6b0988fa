/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Listeners in pods that a CNI agent captures with netfilter rules: they are on the ports that those rules
 * redirect to (contract section 13.2), and the proxy opens them itself.
 */
#ifndef PROXY_PODS_POD_LISTENERS_H
#define PROXY_PODS_POD_LISTENERS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "bruma/maps.h"

struct pod_listener_options {
    uint32_t mark; /* 0: none */
    bool ipv6;
    bool reuse_port;  /* another proxy may listen beside this one, as during an upgrade */
    bool transparent; /* the applications see their clients' addresses */
    bool diverted;    /* rules may hand over what is for other addresses, unchanged (TPROXY) */
    bool dns;         /* DNS queries are answered */
    bool hbone_only;  /* nothing is captured: there is no listener but that for HBONE */
};

/*
 * Opens those of fds that are -1 (enum bruma_listener), in the namespace, in which the calling thread is
 * already if both descriptors are the same. It is back in own_netns_fd's afterwards. 0, or -errno: nothing is
 * open that was not before, and error says which step failed.
 */
int pod_listeners_open(const struct pod_listener_options *options, int netns_fd, int own_netns_fd,
                       int fds[BRUMA_LISTENER_COUNT], char *error, size_t error_size);

/* Whether this process may enter network namespaces and mark sockets at all: 0, or -errno with what failed in
 * error. */
int pod_listeners_possible(const struct pod_listener_options *options, int own_netns_fd, char *error,
                           size_t error_size);

/*
 * Opens the sockets that DNS queries are redirected to, by UDP, on the device lo alone, and by TCP. The
 * same thread rules; on failure neither is open. 0 or -errno. The caller's to close.
 */
int pod_listeners_open_dns(const struct pod_listener_options *options, int netns_fd, int own_netns_fd,
                           int *ret_udp, int *ret_tcp, char *error, size_t error_size);

/* Opens the listeners for SOCKS, on IPv4's loopback and IPv6's (-1 where there is none). The same thread
 * rules; on failure none is open. 0 or -errno. The caller's to close. */
int pod_listeners_open_socks(const struct pod_listener_options *options, int netns_fd, int own_netns_fd,
                             int ret_fds[2], char *error, size_t error_size);

/* The socket does not listen any more: somebody has destroyed it. */
bool pod_listener_dead(int fd);

#endif
