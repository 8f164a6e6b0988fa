/* SPDX-License-Identifier: Apache-2.0 */
#include "ctl/top_rows.h"

#include <errno.h>
#include <search.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/cleanup.h"

#define NAME_MAX_BYTES (2 * METRIC_VALUE_MAX) /* of a row's */

struct top_rows {
    enum top_by by;
    const char *namespace;
    void *tree; /* of the rows, by name */
    struct top_row **each;
    size_t len, size;
};

static const char *const by_names[TOP_BYS] = {
    [TOP_WORKLOAD] = "workload", [TOP_NAMESPACE] = "namespace", [TOP_SERVICE] = "service"};
static const char *const sort_names[TOP_SORTS] = {
    [TOP_BYTES] = "bytes",   [TOP_IN] = "in",         [TOP_OUT] = "out",  [TOP_OPEN] = "open",
    [TOP_OPENED] = "opened", [TOP_FAILED] = "failed", [TOP_NAME] = "name"};

static size_t index_of(const char *const *names, size_t len, const char *name)
{
    size_t i = 0;

    while (i < len && strcmp(names[i], name) != 0)
        i++;
    return i;
}

enum top_by top_by_from(const char *name)
{
    return (enum top_by)index_of(by_names, TOP_BYS, name);
}

enum top_sort top_sort_from(const char *name)
{
    return (enum top_sort)index_of(sort_names, TOP_SORTS, name);
}

const char *top_by_name(enum top_by by)
{
    return by_names[by];
}

/* ---- rows ---- */

struct top_rows *top_rows_new(enum top_by by, const char *namespace)
{
    struct top_rows *rows = calloc(1, sizeof(*rows));

    if (rows) {
        rows->by = by;
        rows->namespace = namespace;
    }
    return rows;
}

static void free_row(void *data)
{
    struct top_row *row = data;

    free(row->name);
    free(row);
}

void top_rows_free(struct top_rows **rows)
{
    struct top_rows *r = *rows;

    if (!r)
        return;
    tdestroy(r->tree, free_row);
    free(r->each);
    free(r);
    *rows = NULL;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const struct top_row *)a)->name, ((const struct top_row *)b)->name);
}

static struct top_row *new_row(struct top_rows *rows, const char *name)
{
    struct top_row *row = calloc(1, sizeof(*row));

    if (row)
        row->name = strdup(name);
    if (row && row->name && tsearch(row, &rows->tree, by_name)) {
        rows->each[rows->len++] = row;
        return row;
    }
    if (row)
        free_row(row);
    return NULL;
}

/* NULL without memory. */
static struct top_row *row_of(struct top_rows *rows, char *name)
{
    const struct top_row wanted = {.name = name};
    struct top_row **found = tfind(&wanted, &rows->tree, by_name);

    if (found)
        return *found;
    if (rows->len == rows->size) {
        size_t size = rows->size ? rows->size * 2 : 64;
        struct top_row **grown = reallocarray(rows->each, size, sizeof(struct top_row *));

        if (!grown)
            return NULL;
        rows->each = grown;
        rows->size = size;
    }
    return new_row(rows, name);
}

/* ---- what a sample says ---- */

/* Whose it is. False: nobody's that is wanted. *ret_client: it has opened the connection. */
static bool owner_of(const struct top_rows *rows, const struct metric_sample *s, char name[NAME_MAX_BYTES],
                     bool *ret_client)
{
    char reporter[METRIC_VALUE_MAX], own[METRIC_VALUE_MAX], namespace[METRIC_VALUE_MAX];
    bool source = !strcmp(metric_label(s, "reporter", reporter), "source"), service = rows->by == TOP_SERVICE;

    metric_label(s,
                 service  ? "destination_service"
                 : source ? "source_workload"
                          : "destination_workload",
                 own);
    metric_label(s,
                 service  ? "destination_service_namespace"
                 : source ? "source_workload_namespace"
                          : "destination_workload_namespace",
                 namespace);
    if ((service && (!source || !strcmp(own, "unknown"))) ||
        (rows->namespace && strcmp(namespace, rows->namespace) != 0))
        return false;
    if (service)
        snprintf(name, NAME_MAX_BYTES, "%s", own);
    else if (rows->by == TOP_NAMESPACE)
        snprintf(name, NAME_MAX_BYTES, "%s", namespace);
    else
        snprintf(name, NAME_MAX_BYTES, "%s/%s", namespace, own);
    *ret_client = source && !service;
    return true;
}

/* How much more it is than before; a series that is new, or of a process that is new, has begun at 0. */
static double increase(const struct metric_page *before, const struct metric_sample *s)
{
    const struct metric_sample *former = metric_page_find(before, s);

    return former && former->value <= s->value ? s->value - former->value : s->value;
}

static void add(struct top_row *row, const struct metric_sample *s, bool client, double rate)
{
    switch (s->kind) {
    case METRIC_OPENED:
        row->open += s->value;
        row->opened += rate;
        break;
    case METRIC_CLOSED:
        row->open -= s->value;
        break;
    case METRIC_FAILED:
        row->failed += rate;
        break;
    case METRIC_RECEIVED: /* from who has opened it */
        *(client ? &row->out : &row->in) += rate;
        break;
    case METRIC_SENT:
        *(client ? &row->in : &row->out) += rate;
        break;
    case METRIC_KINDS:
        break;
    }
}

int top_rows_add(struct top_rows *rows, size_t node, const struct metric_page *before,
                 const struct metric_page *now, double seconds)
{
    for (size_t i = 0; i < now->len; i++) {
        const struct metric_sample *s = &now->samples[i];
        char name[NAME_MAX_BYTES];
        struct top_row *row;
        bool client;

        if (!owner_of(rows, s, name, &client))
            continue;
        row = row_of(rows, name);
        if (!row)
            return -ENOMEM;
        if (!row->nodes || row->last_node != node)
            row->nodes++;
        row->last_node = node;
        add(row, s, client, increase(before, s) / seconds);
    }
    return 0;
}

/* ---- their order ---- */

static double measure(const struct top_row *row, enum top_sort sort)
{
    const double measures[TOP_SORTS] = {
        [TOP_BYTES] = row->in + row->out, [TOP_IN] = row->in,         [TOP_OUT] = row->out,
        [TOP_OPEN] = row->open,           [TOP_OPENED] = row->opened, [TOP_FAILED] = row->failed};

    return measures[sort];
}

static int compare(const void *a, const void *b, void *data)
{
    const struct top_row *x = *(struct top_row *const *)a, *y = *(struct top_row *const *)b;
    enum top_sort sort = *(enum top_sort *)data;
    double a_measure = measure(x, sort), b_measure = measure(y, sort);

    return a_measure < b_measure ? 1 : a_measure > b_measure ? -1 : strcmp(x->name, y->name);
}

struct top_row *const *top_rows_sorted(struct top_rows *rows, enum top_sort sort, size_t *ret_len)
{
    if (rows->len)
        qsort_r(rows->each, rows->len, sizeof(struct top_row *), compare, &sort);
    *ret_len = rows->len;
    return rows->each;
}
