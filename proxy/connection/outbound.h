/* SPDX-License-Identifier: Apache-2.0 */
/* Connections of the pod's own applications. */
#ifndef PROXY_CONNECTION_OUTBOUND_H
#define PROXY_CONNECTION_OUTBOUND_H

#include "proxy/worker/worker.h"

/* A connection captured on the outbound listener. Takes fd. destination: as the application dialed it. */
void outbound_accept(struct worker_pod *wp, int fd, const struct endpoint *client,
                     const struct endpoint *destination);
/* The same on the listener that a redirected pod's connections to port 53 come to. */
void outbound_accept_dns(struct worker_pod *wp, int fd, const struct endpoint *client,
                         const struct endpoint *destination);

struct connection_past;
/* One that was decided upon before, and is so anew: nobody asks whether there are too many. Takes fd. past:
 * what is known of it. */
void outbound_accept_again(struct worker_pod *wp, int fd, const struct endpoint *client,
                           const struct endpoint *destination, const struct connection_past *past);

struct connection_news;
/* A connection whose destination its client has said in another way. Takes fd; news is told what becomes of
 * it, during the call at the earliest. */
void outbound_accept_told(struct worker_pod *wp, int fd, const struct endpoint *client,
                          const struct endpoint *destination, struct connection_news *news);

#endif
