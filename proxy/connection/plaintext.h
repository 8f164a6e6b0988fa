/* SPDX-License-Identifier: Apache-2.0 */
/* Connections that come to the pod in plaintext. */
#ifndef PROXY_CONNECTION_PLAINTEXT_H
#define PROXY_CONNECTION_PLAINTEXT_H

#include "proxy/worker/worker.h"

/* A connection captured on the plaintext listener. Takes fd. arrival: its local address. */
void plaintext_accept(struct worker_pod *wp, int fd, const struct endpoint *client,
                      const struct endpoint *destination, const struct endpoint *arrival);

struct connection_past;
/* As outbound_accept_again(). */
void plaintext_accept_again(struct worker_pod *wp, int fd, const struct endpoint *client,
                            const struct endpoint *destination, const struct connection_past *past);

#endif
