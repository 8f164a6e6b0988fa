/* SPDX-License-Identifier: Apache-2.0 */
/* Requests to the kernel about rules and routes of the namespace that the calling thread is in. */
#ifndef AGENT_STEER_POD_NETLINK_H
#define AGENT_STEER_POD_NETLINK_H

#include <libmnl/libmnl.h>

#define NETLINK_BUFFER 8192 /* bytes, for a request, and for a part of its answers */

/* A socket that never blocks, in the network namespace of the calling thread; the caller closes it
 * (mnl_socket_close()). NULL with errno set. */
struct mnl_socket *pod_netlink_open(void);
/* One request and its answers, each of which goes to each, or NULL for one without answers. 0 or -errno;
 * -E2BIG: there are more answers than we read. */
int pod_netlink_transact(struct mnl_socket *netlink, struct nlmsghdr *request, mnl_cb_t each, void *data);

#endif
