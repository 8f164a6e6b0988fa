/* SPDX-License-Identifier: Apache-2.0 */
#include "ctl/metric_page.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/cleanup.h"

static const char *const families[METRIC_KINDS] = {
    [METRIC_OPENED] = "istio_tcp_connections_opened_total",
    [METRIC_CLOSED] = "istio_tcp_connections_closed_total",
    [METRIC_FAILED] = "istio_tcp_connections_failed_total",
    [METRIC_RECEIVED] = "istio_tcp_received_bytes_total",
    [METRIC_SENT] = "istio_tcp_sent_bytes_total",
};

static int compare(const void *a, const void *b)
{
    const struct metric_sample *x = a, *y = b;
    size_t len = x->len < y->len ? x->len : y->len;
    int r =
        x->kind != y->kind ? (x->kind > y->kind) - (x->kind < y->kind) : memcmp(x->labels, y->labels, len);

    return r ? r : (x->len > y->len) - (x->len < y->len);
}

/* The brace behind the labels; NULL: they have no end. */
static const char *end_of(const char *labels)
{
    bool quoted = false;

    for (const char *p = labels; *p && *p != '\n'; p++) {
        if (quoted && *p == '\\' && p[1])
            p++;
        else if (*p == '"')
            quoted = !quoted;
        else if (*p == '}' && !quoted)
            return p;
    }
    return NULL;
}

/* Of no use: nothing, "NaN", and less than nothing. */
static bool read_value(const char *text, double *ret)
{
    char *end;
    double value = strtod(text, &end);

    if (end == text || !isfinite(value) || value < 0)
        return false;
    *ret = value;
    return true;
}

static void take_plain(struct metric_page *page, const char *line, size_t name_len)
{
    const struct {
        const char *name;
        double *value;
    } known[] = {{"process_cpu_seconds_total", &page->cpu},
                 {"process_resident_memory_bytes", &page->memory},
                 {"process_start_time_seconds", &page->started}};

    for (size_t i = 0; i < array_size(known); i++)
        if (strlen(known[i].name) == name_len && !strncmp(line, known[i].name, name_len))
            (void)read_value(line + name_len, known[i].value);
}

/* 0 or -ENOMEM. *size: of the array. */
static int take_labelled(struct metric_page *page, const char *line, size_t name_len, size_t *size)
{
    struct metric_sample s = {.kind = METRIC_KINDS, .labels = line + name_len + 1};
    const char *end = end_of(s.labels);

    if (!end || !read_value(end + 1, &s.value))
        return 0;
    s.len = (size_t)(end - s.labels);
    if (name_len == strlen("bruma_failures_total") && !strncmp(line, "bruma_failures_total", name_len))
        page->failures += s.value;
    for (unsigned kind = 0; kind < METRIC_KINDS; kind++)
        if (strlen(families[kind]) == name_len && !strncmp(line, families[kind], name_len))
            s.kind = (enum metric_kind)kind;
    if (s.kind == METRIC_KINDS)
        return 0;
    if (page->len == *size) {
        size_t larger = *size ? *size * 2 : 256;
        struct metric_sample *grown = reallocarray(page->samples, larger, sizeof(*grown));

        if (!grown)
            return -ENOMEM;
        page->samples = grown;
        *size = larger;
    }
    page->samples[page->len++] = s;
    return 0;
}

int metric_page_parse(char *text, struct metric_page *ret)
{
    struct metric_page page = {.text = text, .cpu = -1, .memory = -1, .started = -1};
    size_t size = 0;
    int r = 0;

    for (const char *line = text; line && *line && r == 0;) {
        size_t name_len = strcspn(line, "{ \n");
        const char *end = strchr(line, '\n');

        if (*line != '#' && line[name_len] == ' ')
            take_plain(&page, line, name_len);
        else if (*line != '#' && line[name_len] == '{')
            r = take_labelled(&page, line, name_len, &size);
        line = end ? end + 1 : NULL;
    }
    if (r < 0) {
        metric_page_free(&page);
        return r;
    }
    if (page.len)
        qsort(page.samples, page.len, sizeof(*page.samples), compare);
    *ret = page;
    return 0;
}

void metric_page_free(struct metric_page *page)
{
    free(page->text);
    free(page->samples);
    *page = (struct metric_page){};
}

const struct metric_sample *metric_page_find(const struct metric_page *page,
                                             const struct metric_sample *sample)
{
    return page->len ? bsearch(sample, page->samples, page->len, sizeof(*page->samples), compare) : NULL;
}

/* Where the value begins; NULL: there is no such label. No value has a quote that is not escaped, so none
 * looks like a name. */
static const char *value_of(const struct metric_sample *s, const char *name)
{
    size_t len = strlen(name);

    for (const char *p = s->labels; (size_t)(p - s->labels) + len + 2 < s->len;) {
        const char *quote;

        if (!strncmp(p, name, len) && p[len] == '=' && p[len + 1] == '"')
            return p + len + 2;
        quote = memchr(p, '"', s->len - (size_t)(p - s->labels));
        if (!quote)
            return NULL;
        for (p = quote + 1; p < s->labels + s->len && *p != '"'; p++)
            p += *p == '\\';
        p += 1;
        p += p < s->labels + s->len && *p == ',';
    }
    return NULL;
}

const char *metric_label(const struct metric_sample *s, const char *name, char buf[METRIC_VALUE_MAX])
{
    const char *p = value_of(s, name), *end = s->labels + s->len;
    size_t n = 0;

    for (; p && p < end && *p != '"' && n < METRIC_VALUE_MAX - 1; p++) {
        bool escaped = *p == '\\' && p + 1 < end;

        p += escaped;
        buf[n++] = escaped && *p == 'n' ? '\n' : *p;
    }
    buf[n] = '\0';
    return buf;
}
