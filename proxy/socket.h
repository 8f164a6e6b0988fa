/* SPDX-License-Identifier: Apache-2.0 */
/* Sockets that live in pods' network namespaces. The calling worker thread moves into the pod and stays there
 * until the next call. */
#ifndef PROXY_SOCKET_H
#define PROXY_SOCKET_H

#include "proxy/worker.h"

/*
 * Starts a TCP connect to target from the pod, as the pod (no capture: the socket is exempted first). Returns
 * a non-blocking socket that is connected or still connecting (*ret_connected tells), or -errno.
 */
int socket_dial(struct worker *worker, struct pod *pod, const struct endpoint *target, bool *ret_connected);

/*
 * Starts a TCP connect to the pod's application. client: whose address the application shall see (NULL: the
 * pod's own). The source port is chosen by the kernel, and never one that a live plaintext connection of the
 * same client uses.
 */
int socket_deliver(struct worker *worker, struct pod *pod, const struct endpoint *target,
                   const struct addr *client, bool *ret_connected);

/* The calling worker thread leaves the pod, if it is in it, and keeps nothing that would keep the namespace.
 */
void socket_leave(struct worker *worker, const struct pod *pod);

/* Whether the address is one of the pod's namespace. */
bool socket_address_is_local(struct worker *worker, struct pod *pod, const struct addr *addr);

/* 0 if a non-blocking connect has succeeded, -EINPROGRESS, or what it failed with. */
int socket_connect_result(int fd);

/* close() makes the kernel send a reset instead of a FIN. */
void socket_reset_on_close(int fd);
void socket_keepalive(const struct proxy_settings *settings, int fd);

enum bruma_reason socket_reason(int error); /* of a failed connect; error: positive or negative errno */

#endif
