/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The page of metrics. It may be megabytes, and whoever reaches the port may ask for it, so it is made on a
 * thread of its own, one at a time; all who ask meanwhile share the next one, and the next one begins no
 * sooner than three times what the last one took has passed. All calls on the loop's thread.
 */
#ifndef PROXY_ADMIN_METRICS_PAGE_H
#define PROXY_ADMIN_METRICS_PAGE_H

#include <stdio.h>

#include "lib/loop.h"
#include "lib/rpc/http_server.h"

struct metrics_page;

struct metrics_page_source {
    void (*own)(void *data, FILE *out);   /* called on the loop's thread: short */
    void (*large)(void *data, FILE *out); /* called on another thread */
    void *data;
};

/* source is copied. 0, -ENOMEM, or -errno of a descriptor. */
int metrics_page_new(struct loop *loop, const struct metrics_page_source *source, struct metrics_page **ret);
/* Waits for the thread. Requests that wait are answered with 503. */
void metrics_page_free(struct metrics_page **page);
/* The same for who is no client: taken is called once, soon, on the loop's thread, with the text, which is
 * the page's; NULL: it could not be made. */
void metrics_page_take(struct metrics_page *page, void (*taken)(void *data, const char *text, size_t len),
                       void *data);
/* Answers it, soon. */
void metrics_page_ask(struct metrics_page *page, struct http_request *request);

#endif
