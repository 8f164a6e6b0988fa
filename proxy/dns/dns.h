/* SPDX-License-Identifier: Apache-2.0 */
/*
 * DNS of a pod (contract section 11): names that the mesh knows are answered here, and every other question
 * goes on as it is, byte for byte, to the server that the pod has asked. Worker's thread, all of it.
 */
#ifndef PROXY_DNS_DNS_H
#define PROXY_DNS_DNS_H

#include "proxy/worker/worker.h"

struct dns_pod;

/* What a worker does for the questions of a pod. Never fails but with -ENOMEM. Its socket and its timers end
 * with dns_pod_free(), as do questions that are on their way. */
int dns_pod_new(struct worker_pod *wp, struct dns_pod **ret);
void dns_pod_free(struct dns_pod **pod); /* NULL is fine */

/* The UDP socket that the pod's questions come to (-1: none any more). Takes fd. */
void dns_pod_set_socket(struct dns_pod *pod, int fd);
/* Questions are taken from it from here on. */
void dns_pod_start(struct dns_pod *pod);
/* No longer; those that have been taken go on. */
void dns_pod_stop(struct dns_pod *pod);
/* True if questions of the pod are captured: there is a socket. NULL: false. */
bool dns_pod_serves(const struct dns_pod *pod);

/* Called with the first question of a connection that is not for us. Takes fd and passes it on as a
 * connection of the pod's application to the destination. */
typedef void (*dns_connect_fn)(struct worker_pod *wp, int fd, const struct endpoint *client,
                               const struct endpoint *destination);

/*
 * A connection of the application to port 53 of server. Takes fd. Questions that are not for us go over one
 * connection to that server, which is made by connect as the application's own would have been.
 */
void dns_stream_accept(struct dns_pod *pod, int fd, const struct endpoint *client,
                       const struct endpoint *server, dns_connect_fn connect);

#endif
