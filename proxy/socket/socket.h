/* SPDX-License-Identifier: Apache-2.0 */
/* Sockets that live in pods' network namespaces. The calling worker thread moves into the pod and stays there
 * until the next call. */
#ifndef PROXY_SOCKET_SOCKET_H
#define PROXY_SOCKET_SOCKET_H

#include "proxy/worker/worker.h"

/*
 * Starts a TCP connect to target from the pod, as the pod (no capture: the socket is exempted first); target
 * may be the pod itself, by an address that its network has not named. Returns a non-blocking socket that is
 * connected or still connecting (*ret_connected tells), or -errno.
 */
int socket_dial(struct worker *worker, struct pod *pod, const struct endpoint *target, bool *ret_connected);

/*
 * Starts a TCP connect to the pod's application. client: whose address the application shall see (NULL: the
 * pod's own). The source port is never one that a live plaintext connection of the same client uses. Where no
 * port is left under the client's address the connection comes from the pod's own, which is counted and told.
 * *ret_port: to be given back by socket_delivery_over(); 0: nothing to give back.
 */
int socket_deliver(struct worker_pod *wp, const struct endpoint *target, const struct addr *client,
                   bool *ret_connected, uint16_t *ret_port);
/*
 * A connection from outside that was accepted is bound to the device that it comes by, so that it does not
 * hear what comes over lo for a delivery under the same client's address and port. One that leaves by another
 * device stays as it is.
 */
void socket_bind_arrival(struct worker *worker, struct pod *pod, int fd, const struct endpoint *client);
/* A delivery's socket is closed, and neither side has anything to send any more: it was reset, or both have
 * ended. Nothing is said of one that was closed while the application could still send: its port would meet
 * what is left of it. */
void socket_delivery_over(struct worker_pod *wp, uint16_t port);

/* The calling worker thread leaves the pod, if it is in it, and keeps nothing that would keep the
 * namespace. */
void socket_leave(struct worker *worker, const struct pod *pod);

/* Whether the pod's kernel has the address as its own: one that its network has named, or any other. False
 * where that cannot be learnt. */
bool socket_address_is_local(struct worker *worker, struct pod *pod, const struct addr *addr);

/* 0 if a non-blocking connect has succeeded, -EINPROGRESS, or what it failed with. */
int socket_connect_result(int fd);
/* That was no failure: the other side had accepted, and has reset the connection since. What it said first is
 * there to be read. */
static inline bool socket_was_reset(int connect_result)
{
    return connect_result == -ECONNRESET || connect_result == -EPIPE;
}

/* How many bytes were written that the other side's kernel has not acknowledged; 0 where it cannot be
 * told. */
size_t socket_unacknowledged(int fd);

/* close() makes the kernel send a reset instead of a FIN. */
void socket_reset_on_close(int fd);
/* Sets keepalive as the settings want it, or leaves it off; failures are not told. */
void socket_keepalive(const struct proxy_settings *settings, int fd);

enum bruma_reason socket_reason(int error); /* of a failed connect; error: positive or negative errno */

#endif
