/* SPDX-License-Identifier: Apache-2.0 */
/* The sockets by which a worker takes a pod's DNS queries. */
#ifndef PROXY_CONNECTION_WORKER_DNS_H
#define PROXY_CONNECTION_WORKER_DNS_H

#include "proxy/worker/worker.h"

/* Control thread: gives the worker new sockets for the questions of a pod that it knows, or takes them away
 * (-1). Takes both. tcp: only of a redirected pod; other pods' questions by TCP come to the outbound
 * listener. */
void worker_set_dns(struct worker *worker, struct pod *pod, int udp, int tcp);

/* Questions of the pod are taken, where worker and pod are not about to end. Worker's thread. */
void worker_dns_start(struct worker_pod *wp);
/* They are no longer taken; those that were go on. Worker's thread. */
void worker_dns_stop(struct worker_pod *wp);
/* The worker is replaced: as stop. Of a redirected pod its sockets are closed, as the kernel would go on
 * giving them their share. Worker's thread. */
void worker_dns_drain(struct worker_pod *wp);
/* The pod goes: sockets and questions end. Worker's thread. */
void worker_dns_free(struct worker_pod *wp);

#endif
