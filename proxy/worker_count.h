/* SPDX-License-Identifier: Apache-2.0 */
/* How many worker threads there are. */
#ifndef PROXY_WORKER_COUNT_H
#define PROXY_WORKER_COUNT_H

#define WORKERS_MAX 256 /* threads */

/* What a container is given, in whole processors; 0: not known. */
struct worker_share {
    unsigned long limit, request;
};

/*
 * text: "auto", a number of threads (0: as many as processors) or "50%" of the processors, rounded up. auto:
 * the share's limit or, if that is more, its request; without a limit a quarter of the processors, or the
 * request. At least 1, at most WORKERS_MAX. cpus: processors of the machine, at least 1. 0, or -EINVAL if
 * text is none of these.
 */
int worker_count(const char *text, unsigned long cpus, const struct worker_share *share, unsigned *ret);

#endif
