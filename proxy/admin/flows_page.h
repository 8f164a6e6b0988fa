/* SPDX-License-Identifier: Apache-2.0 */
/* The page /flows?after=N, for `brumactl flows` (telemetry/flow_feed.h). On the loop's thread. */
#ifndef PROXY_ADMIN_FLOWS_PAGE_H
#define PROXY_ADMIN_FLOWS_PAGE_H

#include "lib/loop.h"
#include "lib/rpc/http_server.h"

struct flows_page {
    struct loop *loop;
    struct loop_timer tidy; /* while lines are kept */
};

/* loop outlives it. */
void flows_page_open(struct flows_page *page, struct loop *loop);
/* What is kept for it goes. */
void flows_page_close(struct flows_page *page);
/* Whether it was that page: answered then. */
bool flows_page_serve(struct flows_page *page, struct http_request *request);

#endif
