/* SPDX-License-Identifier: Apache-2.0 */
/* Which device of a network namespace leads to an address. */
#ifndef PROXY_SOCKET_ROUTE_DEVICE_H
#define PROXY_SOCKET_ROUTE_DEVICE_H

#include "lib/addr.h"

struct mnl_socket;

/*
 * The index of the device by which a TCP connection to target would leave the namespace that the calling
 * thread is in. 0: it would not leave it (*ret_local: the kernel has the address as one of its own), there is
 * no route, or that cannot be learnt now. *netlink: a socket of that namespace, or NULL, and one is opened;
 * the caller closes it with route_device_close().
 */
unsigned route_device(struct mnl_socket **netlink, const struct endpoint *target, bool *ret_local);
void route_device_close(struct mnl_socket **netlink);

#endif
