/* SPDX-License-Identifier: Apache-2.0 */
/* The scrape: counters of all workers added up, as OpenMetrics text. A family without a sample is not
 * printed. */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "lib/log_output.h"
#include "lib/metrics_text.h"
#include "lib/reasons.h"
#include "proxy/telemetry/log_sink.h"
#include "proxy/telemetry/telemetry_internal.h"

/* A label set with the sums over the workers, read once, so that one scrape is consistent with itself. */
struct total {
    const struct metric_series *labels;
    uint64_t opened, received, sent, closed[METRIC_SERIES_FLAGS];
};

struct scrape {
    struct total *totals;
    size_t len;
};

static int compare(const void *a, const void *b)
{
    const struct metric_series *x = *(struct metric_series *const *)a;
    const struct metric_series *y = *(struct metric_series *const *)b;
    size_t len = x->text_len < y->text_len ? x->text_len : y->text_len;
    int r = memcmp(x->text, y->text, len);

    return r ? r : (x->text_len > y->text_len) - (x->text_len < y->text_len);
}

static void add_up(struct scrape *scrape, struct metric_series **all, size_t len)
{
    struct total *t = NULL;

    for (size_t i = 0; i < len; i++) {
        if (!metric_series_is_used(all[i]))
            continue;
        if (!t || compare(&t->labels, &all[i]) != 0) {
            t = &scrape->totals[scrape->len++];
            memset(t, 0, sizeof(*t));
            t->labels = all[i];
        }
        t->opened += counter_read(&all[i]->opened);
        t->received += counter_read(&all[i]->received);
        t->sent += counter_read(&all[i]->sent);
        for (unsigned f = 0; f < flag_count(); f++)
            t->closed[f] += counter_read(&all[i]->closed[f]);
    }
}

static int append(struct metric_series ***all, size_t *len, struct telemetry *t)
{
    struct metric_series **more, **grown;
    size_t more_len;
    int r = metric_series_list(t->table, &more, &more_len);

    if (r < 0)
        return r;
    grown = realloc(*all, (*len + more_len + 1) * sizeof(struct metric_series *));
    if (grown) {
        *all = grown;
        memcpy(grown + *len, more, more_len * sizeof(struct metric_series *));
        *len += more_len;
    } else {
        metric_series_release(t->table);
        r = -ENOMEM;
    }
    free(more);
    return r;
}

static void sample(FILE *out, const char *name, const struct metric_series *labels, unsigned flag,
                   uint64_t value)
{
    fprintf(out, "%s_total{", name);
    fwrite(labels->text, 1, labels->flags_at, out);
    fputs(flag_text(flag), out);
    fwrite(labels->text + labels->flags_at, 1, labels->text_len - labels->flags_at, out);
    fprintf(out, "} %" PRIu64 "\n", value);
}

static void plain_family(FILE *out, const struct scrape *scrape, size_t offset, const char *name,
                         const char *help)
{
    if (!scrape->len)
        return;
    metric_family(out, name, "counter", help);
    for (size_t i = 0; i < scrape->len; i++) {
        const struct total *t = &scrape->totals[i];

        sample(out, name, t->labels, 0, *(const uint64_t *)(const void *)((const char *)t + offset));
    }
}

/* Closed connections by flag; from the flag on that is given (0: all, 1: the failed ones). */
static void closed_family(FILE *out, const struct scrape *scrape, unsigned first, const char *name,
                          const char *help)
{
    bool any = false;

    for (size_t i = 0; i < scrape->len; i++) {
        for (unsigned f = first; f < flag_count(); f++) {
            if (!scrape->totals[i].closed[f])
                continue;
            if (!any)
                metric_family(out, name, "counter", help);
            any = true;
            sample(out, name, scrape->totals[i].labels, f, scrape->totals[i].closed[f]);
        }
    }
}

static void traffic(FILE *out, const struct scrape *scrape)
{
    plain_family(out, scrape, offsetof(struct total, opened), "istio_tcp_connections_opened",
                 "TCP connections opened.");
    closed_family(out, scrape, 0, "istio_tcp_connections_closed", "TCP connections closed.");
    plain_family(out, scrape, offsetof(struct total, received), "istio_tcp_received_bytes",
                 "Bytes from the initiators of TCP connections.");
    plain_family(out, scrape, offsetof(struct total, sent), "istio_tcp_sent_bytes",
                 "Bytes back to the initiators of TCP connections.");
    closed_family(out, scrape, 1, "istio_tcp_connections_failed",
                  "TCP connections that ended with an error.");
}

static const char *const reporters[] = {[REPORTER_SOURCE] = "source", [REPORTER_DESTINATION] = "destination"};

static void sockets(struct telemetry *const *all, size_t count, FILE *out)
{
    bool any = false;

    for (unsigned reporter = 0; reporter < 2; reporter++) {
        uint64_t opened = 0, closed = 0;

        /* Closed first: a connection that opens and closes in between must not make the difference negative.
         */
        for (size_t i = 0; i < count; i++)
            closed += __atomic_load_n(&all[i]->closed[reporter], __ATOMIC_ACQUIRE);
        for (size_t i = 0; i < count; i++)
            opened += counter_read(&all[i]->opened[reporter]);
        if (!opened)
            continue;
        if (!any)
            metric_family(out, "istio_tcp_sockets_open", "gauge", "TCP connections that are open now.");
        any = true;
        metric_labelled(out, "istio_tcp_sockets_open", "reporter", reporters[reporter], opened - closed);
    }
}

/* A counter for each reason; offset: of its array in struct telemetry. */
static void by_reason(struct telemetry *const *all, size_t count, size_t offset, const char *name,
                      const char *help, FILE *out)
{
    char sample_name[64];
    bool any = false;

    snprintf(sample_name, sizeof(sample_name), "%s_total", name);

    for (unsigned reason = 0; reason < BRUMA_REASON_COUNT; reason++) {
        uint64_t n = 0;

        for (size_t i = 0; i < count; i++)
            n += counter_read((const uint64_t *)(const void *)((const char *)all[i] + offset) + reason);
        if (!n)
            continue;
        if (!any)
            metric_family(out, name, "counter", help);
        any = true;
        metric_labelled(out, sample_name, "reason", reason_name((enum bruma_reason)reason), n);
    }
}

static void revocations(struct telemetry *const *all, size_t count, FILE *out)
{
    bool any = false;

    for (int reporter = 0; reporter < 2; reporter++) {
        uint64_t n = 0;

        for (size_t i = 0; i < count; i++)
            n += counter_read(&all[i]->revoked[reporter]);
        if (!n)
            continue;
        if (!any)
            metric_family(out, "istio_crl_policy_rejections", "counter",
                          "Connections that were refused or ended because a certificate is revoked.");
        any = true;
        metric_labelled(out, "istio_crl_policy_rejections_total", "reporter", reporters[reporter], n);
    }
}

static void about_ourselves(struct telemetry *const *all, size_t count, FILE *out)
{
    struct metric_series_statistics sum = {};
    uint64_t dropped = 0, waits = 0, hidden = 0, ejections = 0, leaving = 0;

    for (size_t i = 0; i < count; i++) {
        struct metric_series_statistics one;

        metric_series_statistics(all[i]->table, &one);
        sum.series += one.series;
        sum.evicted += one.evicted;
        sum.overflowed += one.overflowed;
        sum.undescribed += one.undescribed;
        dropped += log_sink_dropped(all[i]->sink);
        waits += counter_read(&all[i]->policy_waits);
        hidden += counter_read(&all[i]->hidden_clients);
        ejections += counter_read(&all[i]->ejections);
        leaving += counter_read(&all[i]->leaving);
    }
    metric_counter(out, "bruma_access_log_dropped_lines",
                   "Lines of the access log that were dropped because they could not be written in time.",
                   dropped);
    metric_counter(out, "bruma_log_dropped_lines", "Log lines that were dropped because nothing read them.",
                   log_output_dropped());
    metric_counter(out, "bruma_policy_waits",
                   "Connections that waited for a policy that their workload names and that had not arrived.",
                   waits);
    metric_counter(
        out, "bruma_client_addresses_hidden",
        "Connections that reached their application from the pod's own address, for lack of a port for the "
        "client's.",
        hidden);
    metric_counter(
        out, "bruma_endpoint_ejections",
        "Times that a worker left an endpoint out of the choice for a moment, since it had failed.",
        ejections);
    metric_counter(
        out, "bruma_endpoints_leaving",
        "Times that a worker preferred others to an endpoint for a moment, since it had said GOAWAY.",
        leaving);
    metric_gauge(out, "bruma_telemetry_series", "Label sets in memory, counted in each worker.", sum.series);
    metric_counter(out, "bruma_telemetry_series_evicted",
                   "Label sets that were dropped because they were no longer used.", sum.evicted);
    metric_counter(
        out, "bruma_telemetry_overflow_connections",
        "Connections that were counted under unknown labels because there were too many label sets.",
        sum.overflowed);
    metric_counter(
        out, "bruma_telemetry_undescribed_connections",
        "Connections that were counted without what their peer says of itself, since it had said too "
        "much else.",
        sum.undescribed);
}

static void same_node(struct telemetry *const *all, size_t count, FILE *out)
{
    uint64_t sums[SAME_NODE_WHY_COUNT] = {};
    bool any = false;

    for (size_t i = 0; i < count; i++) {
        for (int why = 0; why < SAME_NODE_WHY_COUNT; why++)
            sums[why] += counter_read(&all[i]->same_node[why]);
    }
    metric_counter(out, "bruma_same_node_relayed_connections",
                   "Connections to a pod of the same proxy that set out without a tunnel.",
                   sums[SAME_NODE_WHY_NONE]);
    for (int why = SAME_NODE_WHY_NONE + 1; why < SAME_NODE_WHY_COUNT; why++) {
        if (!sums[why])
            continue;
        if (!any)
            metric_family(
                out, "bruma_same_node_tunnelled_connections", "counter",
                "Connections to a pod of the same proxy that set out with a tunnel, by the reason.");
        any = true;
        metric_labelled(out, "bruma_same_node_tunnelled_connections_total", "reason",
                        same_node_why_name((enum same_node_why)why), sums[why]);
    }
}

static void questions(struct telemetry *const *all, size_t count, FILE *out)
{
    struct dns_metrics **dns = calloc(count + 1, sizeof(struct dns_metrics *));

    if (!dns)
        return;
    for (size_t i = 0; i < count; i++)
        dns[i] = all[i]->dns;
    dns_metrics_write(dns, count, out);
    free(dns);
}

static void hostnames(struct telemetry *const *all, size_t count, FILE *out)
{
    struct name_metrics **names = calloc(count + 1, sizeof(struct name_metrics *));

    if (!names)
        return;
    for (size_t i = 0; i < count; i++)
        names[i] = all[i]->names;
    name_metrics_write(names, count, out);
    free(names);
}

static void dry_runs(struct telemetry *const *all, size_t count, FILE *out)
{
    struct dry_run_metrics **parts = calloc(count + 1, sizeof(struct dry_run_metrics *));

    if (!parts)
        return;
    for (size_t i = 0; i < count; i++)
        parts[i] = &all[i]->dry_run;
    dry_run_metrics_write(parts, count, out);
    free(parts);
}

static void measures(struct telemetry *const *all, size_t count, FILE *out)
{
    struct connection_metrics **parts = calloc(count + 1, sizeof(struct connection_metrics *));

    if (!parts)
        return;
    for (size_t i = 0; i < count; i++)
        parts[i] = &all[i]->connections;
    connection_metrics_write(parts, count, out);
    free(parts);
}

void telemetry_write_metrics(struct telemetry *const *all, size_t count, FILE *out)
{
    struct metric_series **list = NULL;
    struct scrape scrape = {};
    size_t len = 0, held = 0;

    while (held < count && append(&list, &len, all[held]) == 0)
        held++;
    /* Sums that lack a worker would look as if counters ran backwards: rather none. */
    if (held == count)
        scrape.totals = calloc(len + 1, sizeof(*scrape.totals));
    if (scrape.totals && len) {
        qsort(list, len, sizeof(*list), compare);
        add_up(&scrape, list, len);
    }
    traffic(out, &scrape);
    for (size_t i = 0; i < held; i++)
        metric_series_release(all[i]->table);
    free(scrape.totals);
    free(list);
    sockets(all, count, out);
    by_reason(all, count, offsetof(struct telemetry, failures), "bruma_failures",
              "Connections that failed or were ended, by reason.", out);
    by_reason(
        all, count, offsetof(struct telemetry, retries), "bruma_outbound_retries",
        "Connections to a service that were tried on another endpoint, by what the one before failed for.",
        out);
    revocations(all, count, out);
    dry_runs(all, count, out);
    questions(all, count, out);
    hostnames(all, count, out);
    same_node(all, count, out);
    measures(all, count, out);
    about_ourselves(all, count, out);
}
