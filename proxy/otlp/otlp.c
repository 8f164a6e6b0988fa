/* SPDX-License-Identifier: Apache-2.0 */
#define LOG_SCOPE "otlp"
#include "proxy/otlp/otlp.h"

#include <curl/curl.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "lib/cleanup.h"
#include "lib/log.h"
#include "lib/metrics_text.h"
#include "proxy/otlp/otlp_metrics.h"
#include "proxy/otlp/otlp_sender.h"

struct otlp {
    struct otlp_config config;
    struct otlp_queue *queues[OTLP_SIGNALS];
    struct otlp_sender *senders[OTLP_SIGNALS];
};

static const unsigned long delays[OTLP_SIGNALS] = {
    [OTLP_LOGS] = OTLP_LOGS_DELAY, [OTLP_METRICS] = 0, [OTLP_TRACES] = OTLP_TRACES_DELAY};

static int start(struct otlp *o, enum otlp_signal signal)
{
    int r = otlp_queue_new(delays[signal], &o->queues[signal]);

    if (r == 0)
        r = otlp_sender_new(&o->config, signal, o->queues[signal], &o->senders[signal]);
    if (r == -ENOTSUP)
        log_error("OTLP over https: this libcurl speaks TLS by %s, which cannot be held to the proxy's own "
                  "limits; one with OpenSSL is needed",
                  curl_version_info(CURLVERSION_NOW)->ssl_version);
    else if (r < 0)
        log_error_errno(r, "the export of %s cannot be started", otlp_signal_name(signal));
    else
        log_info("%s are exported\turl=%s", otlp_signal_name(signal), o->config.urls[signal]);
    return r;
}

int otlp_start(struct otlp_config *config, struct otlp **ret)
{
    struct otlp *o = otlp_config_is_on(config) ? calloc(1, sizeof(*o)) : NULL;
    int r = 0;

    *ret = NULL;
    if (!o || curl_global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK) {
        r = otlp_config_is_on(config) ? log_error_errno(ENOMEM, "the export over OTLP") : 0;
        otlp_config_clear(config);
        free(o);
        return r;
    }
    o->config = *config;
    *config = (struct otlp_config){};
    for (int i = 0; r == 0 && i < OTLP_SIGNALS; i++) {
        if (o->config.urls[i])
            r = start(o, (enum otlp_signal)i);
    }
    if (r < 0)
        otlp_stop(&o);
    *ret = o;
    return r;
}

/* All of them at once: the time is for all together. */
void otlp_stop(struct otlp **otlp)
{
    struct otlp *o = *otlp;

    if (!o)
        return;
    for (int i = 0; i < OTLP_SIGNALS; i++) {
        if (o->queues[i])
            otlp_queue_end(o->queues[i], OTLP_LAST_WAIT);
    }
    for (int i = 0; i < OTLP_SIGNALS; i++) {
        otlp_sender_free(&o->senders[i]);
        otlp_queue_free(&o->queues[i]);
    }
    otlp_config_clear(&o->config);
    free(o);
    *otlp = NULL;
}

struct otlp_queue *otlp_queue_of(struct otlp *otlp, enum otlp_signal signal)
{
    return otlp ? otlp->queues[signal] : NULL;
}

const struct otlp_sampler *otlp_sampler_of(const struct otlp *otlp)
{
    static const struct otlp_sampler none;

    return otlp ? &otlp->config.sampler : &none;
}

unsigned long otlp_page_interval(const struct otlp *otlp)
{
    return otlp && otlp->queues[OTLP_METRICS] ? otlp->config.interval : 0;
}

static uint32_t count_samples(const char *text, size_t len)
{
    uint32_t n = 0;

    for (size_t i = 0; i < len; i++)
        n += (i == 0 || text[i - 1] == '\n') && text[i] != '#';
    return n;
}

void otlp_put_page(struct otlp *otlp, const char *text, size_t len)
{
    struct otlp_queue *q = otlp_queue_of(otlp, OTLP_METRICS);
    uint32_t samples = count_samples(text, len);
    struct otlp_record *page = len <= OTLP_PAGE_MAX ? otlp_record_new(len, samples) : NULL;
    struct timespec now;

    if (q && page) {
        clock_gettime(CLOCK_REALTIME, &now);
        page->time = (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
        memcpy(page->data, text, len);
        otlp_queue_replace(q, take_pointer(page));
    } else if (q) {
        otlp_queue_drop(q, samples, len <= OTLP_PAGE_MAX ? OTLP_DROP_MEMORY : OTLP_DROP_FULL);
    }
    free(page);
}

/* ---- about itself ---- */

struct counts {
    struct otlp_sender_counts sent;
    struct otlp_queue_counts queue;
};

static void write_family(const struct otlp *o, const struct counts *counts, const char *name,
                         const char *type, const char *help, size_t offset, FILE *out)
{
    char sample[64];

    snprintf(sample, sizeof(sample), "%s%s", name, *type == 'c' ? "_total" : "");
    metric_family(out, name, type, help);
    for (int i = 0; i < OTLP_SIGNALS; i++) {
        if (o->queues[i])
            metric_labelled(out, sample, "signal", otlp_signal_name((enum otlp_signal)i),
                            *(const uint64_t *)(const void *)((const char *)&counts[i] + offset));
    }
}

static void write_drops(const struct otlp *o, const struct counts *counts, FILE *out)
{
    static const char name[] = "bruma_otlp_dropped";
    bool told = false;

    for (int i = 0; i < OTLP_SIGNALS; i++) {
        for (int why = 0; o->queues[i] && why < OTLP_DROPS; why++) {
            if (!counts[i].queue.dropped[why])
                continue;
            if (!told)
                metric_family(out, name, "counter",
                              "Log records, samples and spans that were not exported, by reason.");
            told = true;
            fprintf(out, "%s_total{signal=\"%s\",reason=\"%s\"} %" PRIu64 "\n", name,
                    otlp_signal_name((enum otlp_signal)i), otlp_drop_name((enum otlp_drop)why),
                    counts[i].queue.dropped[why]);
        }
    }
}

void otlp_write_metrics(struct otlp *o, FILE *out)
{
    struct counts counts[OTLP_SIGNALS] = {};

    if (!o)
        return;
    for (int i = 0; i < OTLP_SIGNALS; i++) {
        if (!o->queues[i])
            continue;
        otlp_queue_count(o->queues[i], &counts[i].queue);
        otlp_sender_count(o->senders[i], &counts[i].sent);
    }
    write_family(o, counts, "bruma_otlp_exported", "counter",
                 "Log records, data points and spans that a collector has taken.",
                 offsetof(struct counts, sent.exported), out);
    write_family(o, counts, "bruma_otlp_failures", "counter",
                 "Requests to a collector that failed, of which some were tried again.",
                 offsetof(struct counts, sent.failures), out);
    write_family(o, counts, "bruma_otlp_queued", "gauge", "Records that wait to be exported.",
                 offsetof(struct counts, queue.queued), out);
    write_drops(o, counts, out);
}
