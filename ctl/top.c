/* SPDX-License-Identifier: Apache-2.0 */
/* Who uses the mesh most: two readings of the metrics of all proxies. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "ctl/gather.h"
#include "ctl/interrupt.h"
#include "ctl/node_page.h"
#include "ctl/source.h"
#include "ctl/table.h"
#include "ctl/top_rows.h"
#include "lib/cleanup.h"

#define CLEAR "\033[H\033[2J" /* cursor to the corner, and erase */

struct top_node {
    struct node_page page;
    struct metric_page before, now;
    double before_at, now_at; /* seconds; 0: there is none */
};

struct top {
    const struct ctl_options *options;
    struct top_node *each;
    size_t len;
};

static double seconds_now(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

/* ---- readings ---- */

static struct top_node *node_of(const struct top *top, const struct place *place)
{
    for (size_t i = 0; place->node && i < top->len; i++)
        if (!strcmp(top->each[i].page.node, place->node))
            return &top->each[i];
    return place->node ? NULL : top->each;
}

static void keep(struct top_node *n, const struct metric_page *page)
{
    metric_page_free(&n->before);
    n->before = n->now;
    n->before_at = n->now_at;
    n->now = *page;
    n->now_at = seconds_now();
}

static void forget(struct top_node *n)
{
    metric_page_free(&n->before);
    metric_page_free(&n->now);
    n->before_at = n->now_at = 0;
}

/* Two readings are of one proxy. */
static int read_metrics(struct top_node *n, char *error)
{
    struct received_body body;
    struct metric_page page;
    int r;

    if (node_page_mend(&n->page))
        forget(n);
    r = node_page_get(&n->page, "/metrics", &body, error);
    if (r == 0)
        r = metric_page_parse(body.data, &page);
    if (r == 0)
        keep(n, &page);
    else
        forget(n);
    return r;
}

static int ask_metrics(const struct place *place, const void *data, cJSON **ret)
{
    char error[PLACE_COMPLAINT_MAX] = "out of memory";
    struct top_node *n = node_of(data, place);

    (void)ret;
    if (n && read_metrics(n, error) == 0)
        return CTL_OK;
    if (place->complaint)
        snprintf(place->complaint, PLACE_COMPLAINT_MAX, "no answer of the proxy: %.600s", error);
    else
        fprintf(stderr, "brumactl: no answer of the proxy: %s\n", error);
    return CTL_UNREACHABLE;
}

static bool is_measured(const struct top_node *n)
{
    return n->before_at > 0 && n->now_at > n->before_at;
}

/* Processors in use; -1: not known. */
static double processors(const struct top_node *n)
{
    bool same = n->before.started >= n->now.started && n->before.started <= n->now.started;

    return is_measured(n) && same && n->now.cpu >= n->before.cpu && n->before.cpu >= 0
               ? (n->now.cpu - n->before.cpu) / (n->now_at - n->before_at)
               : -1;
}

static double failures(const struct top_node *n)
{
    double before = n->before.failures <= n->now.failures ? n->before.failures : 0;

    return is_measured(n) ? (n->now.failures - before) / (n->now_at - n->before_at) : 0;
}

static double open_connections(const struct top_node *n)
{
    double open = 0;

    for (size_t i = 0; i < n->now.len; i++)
        open += n->now.samples[i].kind == METRIC_OPENED   ? n->now.samples[i].value
                : n->now.samples[i].kind == METRIC_CLOSED ? -n->now.samples[i].value
                                                          : 0;
    return open > 0 ? open : 0;
}

/* ---- for people ---- */

static const char *bytes_text(double bytes, char *buf, size_t size)
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
    size_t unit = 0;

    for (; bytes >= 1000 && unit + 1 < array_size(units); unit++)
        bytes /= 1024;
    snprintf(buf, size, unit && bytes < 100 ? "%.1f %s" : "%.0f %s", bytes, units[unit]);
    return buf;
}

static const char *rate_text(double rate, char *buf, size_t size)
{
    snprintf(buf, size, rate > 0 && rate < 10 ? "%.1f" : "%.0f", rate);
    return buf;
}

static void add_node(struct table *t, const struct top_node *n, const struct fleet_answer *a)
{
    char cpu[32] = "", memory[32] = "", open[32] = "", failed[32] = "";
    const char *cells[] = {n->page.node, cpu, memory, open, failed, a->complaint};

    if (processors(n) >= 0)
        snprintf(cpu, sizeof(cpu), "%.1f%%", processors(n) * 100);
    if (n->now.memory >= 0 && n->now_at > 0)
        bytes_text(n->now.memory, memory, sizeof(memory));
    if (n->now_at > 0)
        snprintf(open, sizeof(open), "%.0f", open_connections(n));
    if (is_measured(n))
        rate_text(failures(n), failed, sizeof(failed));
    table_row(t, cells + !*n->page.node);
}

struct node_rank {
    size_t i;
    double measure;
};

static int by_measure(const void *a, const void *b)
{
    const struct node_rank *x = a, *y = b;

    return x->measure < y->measure ? 1 : x->measure > y->measure ? -1 : (x->i > y->i) - (x->i < y->i);
}

/* Those without an answer first, and then those with the most work. */
static void print_nodes(const struct top *top, const struct node_answers *g)
{
    static const char *const headers[] = {"NODE", "CPU", "MEMORY", "OPEN", "FAILURES/s", "NOTE"};
    struct table *t = table_new(headers + !g->fleet, array_size(headers) - !g->fleet);
    _cleanup_free_ struct node_rank *ranks = calloc(top->len + 1, sizeof(*ranks));

    for (size_t i = 0; ranks && i < top->len; i++)
        ranks[i] = (struct node_rank){i, g->answers[i].code == CTL_OK ? processors(&top->each[i])
                                                                      : (double)UINT32_MAX};
    if (ranks)
        qsort(ranks, top->len, sizeof(*ranks), by_measure);
    for (size_t i = 0; t && ranks && i < top->len && i < top->options->top.count; i++)
        add_node(t, &top->each[ranks[i].i], &g->answers[ranks[i].i]);
    if (t)
        table_print(t, "", stdout);
    table_free(&t);
    if (top->len > top->options->top.count)
        printf("and %zu more nodes\n", top->len - top->options->top.count);
    puts("");
}

static void add_row(struct table *t, const struct top_row *row)
{
    char open[32], opened[32], failed[32], in[32], out[32], nodes[32];
    const char *cells[] = {row->name, open, opened, failed, in, out, nodes};

    snprintf(open, sizeof(open), "%.0f", row->open > 0 ? row->open : 0);
    rate_text(row->opened, opened, sizeof(opened));
    rate_text(row->failed, failed, sizeof(failed));
    bytes_text(row->in, in, sizeof(in));
    bytes_text(row->out, out, sizeof(out));
    snprintf(nodes, sizeof(nodes), "%zu", row->nodes);
    table_row(t, cells);
}

static void print_rows(const struct ctl_options *o, struct top_rows *rows)
{
    static const char *const names[] = {"WORKLOAD", "NAMESPACE", "SERVICE"};
    const char *const headers[] = {names[o->top.by], "OPEN",  "OPENED/s", "FAILED/s",
                                   "IN/s",           "OUT/s", "NODES"};
    struct table *t = table_new(headers, array_size(headers));
    size_t len;
    struct top_row *const *sorted = top_rows_sorted(rows, o->top.sort, &len);

    for (size_t i = 0; t && i < len && i < o->top.count; i++)
        add_row(t, sorted[i]);
    if (t)
        table_print(t, "Nobody has used the mesh.", stdout);
    if (len > o->top.count)
        printf("and %zu more; --count shows more of them\n", len - o->top.count);
    table_free(&t);
}

/* ---- for programs ---- */

static cJSON *node_as_json(const struct top_node *n, const struct fleet_answer *a)
{
    cJSON *j = cJSON_CreateObject();

    if (*n->page.node)
        cJSON_AddStringToObject(j, "node", n->page.node);
    if (a->code != CTL_OK) {
        cJSON_AddStringToObject(j, "error", a->complaint);
        return j;
    }
    if (is_measured(n))
        cJSON_AddNumberToObject(j, "seconds", n->now_at - n->before_at);
    if (processors(n) >= 0)
        cJSON_AddNumberToObject(j, "processors", processors(n));
    if (n->now.memory >= 0)
        cJSON_AddNumberToObject(j, "memoryBytes", n->now.memory);
    cJSON_AddNumberToObject(j, "open", open_connections(n));
    cJSON_AddNumberToObject(j, "failuresPerSecond", failures(n));
    return j;
}

static cJSON *row_as_json(const struct top_row *row)
{
    cJSON *j = cJSON_CreateObject();

    cJSON_AddStringToObject(j, "name", row->name);
    cJSON_AddNumberToObject(j, "open", row->open > 0 ? row->open : 0);
    cJSON_AddNumberToObject(j, "openedPerSecond", row->opened);
    cJSON_AddNumberToObject(j, "failedPerSecond", row->failed);
    cJSON_AddNumberToObject(j, "inBytesPerSecond", row->in);
    cJSON_AddNumberToObject(j, "outBytesPerSecond", row->out);
    cJSON_AddNumberToObject(j, "nodes", (double)row->nodes);
    return j;
}

static void print_as_json(const struct top *top, const struct node_answers *g, struct top_rows *rows)
{
    const struct ctl_options *o = top->options;
    cJSON *all = cJSON_CreateObject(), *nodes, *list;
    size_t len;
    struct top_row *const *sorted = top_rows_sorted(rows, o->top.sort, &len);

    nodes = cJSON_AddArrayToObject(all, "nodes");
    for (size_t i = 0; i < top->len; i++)
        cJSON_AddItemToArray(nodes, node_as_json(&top->each[i], &g->answers[i]));
    cJSON_AddStringToObject(all, "by", top_by_name(o->top.by));
    list = cJSON_AddArrayToObject(all, "rows");
    for (size_t i = 0; i < len && i < o->top.count; i++)
        cJSON_AddItemToArray(list, row_as_json(sorted[i]));
    (void)print_json(all);
}

/* ---- the whole ---- */

static int print_round(const struct top *top, const struct node_answers *g, bool again)
{
    const struct ctl_options *o = top->options;
    struct top_rows *rows = top_rows_new(o->top.by, o->namespace);
    int r = rows ? 0 : -1;

    for (size_t i = 0; r == 0 && i < top->len; i++) {
        const struct top_node *n = &top->each[i];

        if (is_measured(n))
            r = top_rows_add(rows, i, &n->before, &n->now, n->now_at - n->before_at);
    }
    if (r < 0) {
        fprintf(stderr, "brumactl: out of memory\n");
    } else if (o->json) {
        print_as_json(top, g, rows);
    } else {
        fputs(again ? CLEAR : "", stdout);
        print_nodes(top, g);
        print_rows(o, rows);
    }
    top_rows_free(&rows);
    fflush(stdout);
    return r < 0 ? CTL_PROBLEM : CTL_OK;
}

/* One reading of all, and from the second one on what is new. */
static int take_reading(struct top *top, bool print, bool again)
{
    struct node_answers g;
    size_t silent = 0;
    int r = gather(top->options, ask_metrics, top, &g);

    if (r != CTL_OK)
        return r;
    for (size_t i = 0; i < g.len; i++)
        silent += g.answers[i].code != CTL_OK;
    if (silent == g.len)
        return gathered_end(&g, CTL_UNREACHABLE);
    if (print)
        r = print_round(top, &g, again);
    fleet_answers_free(&g.answers, g.len);
    return r;
}

/* Once, or until it is interrupted. */
static int measure(struct top *top)
{
    const struct ctl_options *o = top->options;
    const struct timespec pause = {.tv_sec = o->top.interval};
    bool again = !o->top.once && !o->json && isatty(STDOUT_FILENO), more = true;
    int r = take_reading(top, false, again);

    if (r == CTL_OK && isatty(STDERR_FILENO))
        fprintf(stderr, "measuring for %u seconds\n", o->top.interval);
    while (r == CTL_OK && more && !interrupted() && !ferror(stdout)) {
        (void)nanosleep(&pause, NULL);
        if (!interrupted())
            r = take_reading(top, true, again);
        more = again;
    }
    return r;
}

int command_top(const struct ctl_options *o, int argc, char **argv)
{
    struct top top = {.options = o, .len = o->fleet ? fleet_len(o->fleet) : 1};
    int r;

    (void)argc;
    (void)argv;
    top.each = calloc(top.len + 1, sizeof(*top.each));
    if (!top.each) {
        fprintf(stderr, "brumactl: out of memory\n");
        return CTL_PROBLEM;
    }
    for (size_t i = 0; i < top.len; i++)
        node_page_init(&top.each[i].page, o, i, NULL);
    interrupt_catch();
    r = measure(&top);
    for (size_t i = 0; i < top.len; i++) {
        node_page_close(&top.each[i].page);
        forget(&top.each[i]);
    }
    free(top.each);
    return r;
}
