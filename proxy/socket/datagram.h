/* SPDX-License-Identifier: Apache-2.0 */
/* UDP in pods' network namespaces: questions to others, and answers under others' addresses. Worker's thread;
 * it moves into the pod as in socket.h. */
#ifndef PROXY_SOCKET_DATAGRAM_H
#define PROXY_SOCKET_DATAGRAM_H

#include "proxy/socket/socket.h"

#define DATAGRAM_MAX 65507 /* bytes of payload */

/*
 * A non-blocking UDP socket of the pod, connected to target, whose packets are not captured; target may be
 * the pod itself. The kernel chooses the port, at random. Returns the descriptor, which is the caller's, or
 * -errno.
 */
int datagram_dial(struct worker *worker, struct pod *pod, const struct endpoint *target);

/*
 * Sends a datagram within the pod as if it came from another endpoint. The kernel lets a socket do that only
 * if it binds that port, which may be a process of the pod's own; so the headers are made here. Raw sockets
 * of the namespace are opened as they are needed; datagram_sender_close() closes them.
 */
struct datagram_sender {
    int fds[2]; /* IPv4, IPv6; -1: not open */
};

#define DATAGRAM_SENDER_NONE ((struct datagram_sender){{-1, -1}})

/* from and to are of one family. len: at most DATAGRAM_MAX. 0 or -errno (-EAGAIN: the socket is full). */
int datagram_send_as(struct worker *worker, struct pod *pod, struct datagram_sender *sender,
                     const struct endpoint *from, const struct endpoint *to, const void *data, size_t len);
/* Closes what is open; it may be used again. */
void datagram_sender_close(struct datagram_sender *sender);

#endif
