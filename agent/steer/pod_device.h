/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Devices of a pod, and the routes of IPv4 by which our mark cuts off a socket that is bound to one of them.
 * To such a socket the kernel takes any address that it finds no route to for a neighbour: a rule that
 * prohibits says nothing to it. So there is a route to lo for each device, which none but those sockets take:
 *
 *     local default dev eth0 table 100 proto 98 metric (the device's index)
 *
 * The rule for DNS queries leads to the same table, and a socket that is bound to a device goes its own way
 * there: that rule takes no default route (suppress_prefixlength 0), and for others there are two halves of
 * one to lo.
 */
#ifndef AGENT_STEER_POD_DEVICE_H
#define AGENT_STEER_POD_DEVICE_H

#include <libmnl/libmnl.h>
#include <stdint.h>

#include "agent/steer/steer.h"

/* Adds what is missing of these routes to the table. source: of what the pod sends by them, NULL: any. The
 * calling thread is in the pod. 0, or -errno of the first that could not be added: the rest is not. */
int pod_devices_cut(struct mnl_socket *netlink, uint32_t table, const struct addr *source);

/* The index of the pod's only device that is up, beside lo, if a socket that is bound to it goes where one
 * goes that is not: it has the route of above, and all of IPv4 has a way by it, nothing is refused by routes,
 * and no address is the pod's own but those of its entry, which are not left to routes. 0: there are several,
 * or none, or that does not hold, or it cannot be told. */
uint32_t pod_only_device(const struct steer_pod *pod);

#endif
