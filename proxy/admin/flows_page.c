/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/admin/flows_page.h"

#include <inttypes.h>
#include <stdlib.h>

#include "lib/cleanup.h"
#include "proxy/telemetry/flow_feed.h"

static void on_tidy(struct loop_timer *timer)
{
    struct flows_page *page = container_of(timer, struct flows_page, tidy);

    if (flow_feed_tidy(loop_now(page->loop)))
        loop_timer_set(page->loop, timer, FLOW_FEED_IDLE);
}

void flows_page_open(struct flows_page *page, struct loop *loop)
{
    page->loop = loop;
    loop_timer_init(&page->tidy, on_tidy);
}

void flows_page_close(struct flows_page *page)
{
    loop_timer_cancel(&page->tidy);
    (void)flow_feed_tidy(UINT64_MAX);
}

static bool number_of(const struct http_request *request, uint64_t *ret)
{
    char text[24], *end;
    int len = http_query(request, "after", text, sizeof(text));

    *ret = 0;
    if (len == -ENOENT)
        return true;
    if (len <= 0 || *text < '0' || *text > '9')
        return false;
    errno = 0;
    *ret = strtoull(text, &end, 10);
    return !errno && !*end;
}

bool flows_page_serve(struct flows_page *page, struct http_request *request)
{
    static const struct http_answer answer = {.status = 200, .type = "application/json", .compress = true};
    uint64_t after;
    size_t len;
    char *text;

    if (!http_path_is(request, "/flows"))
        return false;
    if (!number_of(request, &after)) {
        http_respond_text(request, 400, "usage: GET /flows?after=NUMBER\n");
        return true;
    }
    if (flow_feed_read(loop_now(page->loop), after, &text, &len) < 0) {
        http_respond_text(request, 503, "out of memory\n");
        return true;
    }
    http_respond(request, &answer, text, len);
    loop_timer_set(page->loop, &page->tidy, FLOW_FEED_IDLE + 1000);
    return true;
}
