/* SPDX-License-Identifier: Apache-2.0 */
/* One listener of a pod as one worker sees it. All workers watch the same socket; the kernel wakes one of
 * them for each connection. */
#ifndef PROXY_CONNECTION_ACCEPTOR_H
#define PROXY_CONNECTION_ACCEPTOR_H

#include "proxy/worker/worker.h"

/* No listener yet. Worker's own thread, as all of these. */
void acceptor_init(struct acceptor *acceptor, struct worker_pod *wp, enum acceptor_kind kind);
/* Takes fd; the one before is closed. Accepts once acceptor_start() is called. */
void acceptor_set(struct acceptor *acceptor, int fd);
void acceptor_start(struct acceptor *acceptor);
/* Connections wait in the backlog from here on. */
void acceptor_stop(struct acceptor *acceptor);
/* Stops, and closes its duplicate of the listener; harmless a second time. */
void acceptor_close(struct acceptor *acceptor);
/* Takes what waits in the backlog, then closes: another proxy's listener gets all that comes after. */
void acceptor_finish(struct acceptor *acceptor);

#endif
