/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/metrics_export.h"

#include <stdlib.h>

#include "proxy/otlp/otlp.h"
#include "proxy/proxy.h"
#include "proxy/proxy_metrics.h"

static void taken(void *data, const char *text, size_t len)
{
    struct proxy *p = data;

    if (text)
        otlp_put_page(p->otlp, text, len);
}

static void on_time(struct loop_timer *timer)
{
    struct proxy *p = container_of(timer, struct proxy, metrics_timer);

    loop_timer_set(p->loop, timer, otlp_page_interval(p->otlp));
    admin_take_metrics(p->admin, taken, p);
}

void metrics_export_start(struct proxy *p)
{
    loop_timer_init(&p->metrics_timer, on_time);
    if (otlp_page_interval(p->otlp))
        loop_timer_set(p->loop, &p->metrics_timer, otlp_page_interval(p->otlp));
}

void metrics_export_end(struct proxy *p)
{
    char *text = NULL;
    size_t len = 0;
    FILE *out;

    if (!otlp_page_interval(p->otlp))
        return;
    loop_timer_cancel(&p->metrics_timer);
    out = open_memstream(&text, &len);
    if (!out)
        return;
    proxy_metrics_large(p, out);
    proxy_metrics(p, out);
    if (fclose(out) == 0)
        otlp_put_page(p->otlp, text, len);
    free(text);
}
