/* SPDX-License-Identifier: Apache-2.0 */
/* The workers: threads that carry the connections. What the control thread tells them: worker_post.h. */
#ifndef PROXY_CONNECTION_WORKER_THREAD_H
#define PROXY_CONNECTION_WORKER_THREAD_H

#include "proxy/worker/worker.h"

/* Control thread. index: from 0. 0 or -errno */
int worker_start(struct proxy *proxy, unsigned index, struct worker **ret);
void worker_stop(struct worker *worker); /* control thread; joins */

/* A worker without a thread: its loop is the caller's to run, who is a reader of RCU. 0 or -errno */
int worker_new(struct proxy *proxy, unsigned index, struct worker **ret);
/* All its pods have been removed. */
void worker_free(struct worker *worker);

#endif
