/* SPDX-License-Identifier: Apache-2.0 */
/* Connections as they are opened, closed and refused, of all nodes. */
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "ctl/flow_line.h"
#include "ctl/gather.h"
#include "ctl/page.h"
#include "ctl/source.h"
#include "lib/cleanup.h"
#include "lib/reasons.h"

#define PERIOD 500 /* milliseconds between two questions */

/* A node that is asked again and again. */
struct flow_reader {
    const char *node; /* pointer of its place */
    struct page_session *session;
    double next; /* number of the next line; 0: not known */
};

struct flow_readers {
    struct flow_reader *each;
    size_t len;
};

static volatile sig_atomic_t interrupted;

static void on_signal(int number)
{
    (void)number;
    interrupted = 1;
}

static struct flow_reader *reader_of(const struct flow_readers *f, const struct place *place)
{
    for (size_t i = 0; i < f->len; i++) {
        if (f->each[i].node == place->node)
            return &f->each[i];
    }
    return NULL;
}

/* *ret: what the page says. */
static int ask_page(const struct place *place, struct flow_reader *f, cJSON **ret, char *error)
{
    struct received_body body = {};
    char path[64];
    long status = 0;
    int r = f->session ? 0 : page_open(place, PAGE_PROXY, &f->session, error);

    snprintf(path, sizeof(path), "/flows?after=%.0f", f->next);
    if (r == 0)
        r = page_get(f->session, path, &body, &status, error);
    *ret = r == 0 && status == 200 ? cJSON_ParseWithLength(body.data, body.len) : NULL;
    free(body.data);
    if (*ret)
        return 0;
    page_close(&f->session);
    if (r == 0)
        snprintf(error, PLACE_COMPLAINT_MAX, "it answered with status %ld; is it of another version?",
                 status);
    return -EIO;
}

static int ask_flows(const struct place *place, const void *data, cJSON **ret)
{
    struct flow_reader *f = reader_of(data, place);
    char error[PLACE_COMPLAINT_MAX] = "";

    if (f && ask_page(place, f, ret, error) == 0) {
        f->next = number_of(*ret, "next");
        return CTL_OK;
    }
    if (place->complaint)
        snprintf(place->complaint, PLACE_COMPLAINT_MAX, "no answer of the proxy: %.600s", error);
    else
        fprintf(stderr, "brumactl: no answer of the proxy: %s\n", error);
    return CTL_UNREACHABLE;
}

/* ---- what they say ---- */

/* Of all nodes, by time: texts in a form of ISO 8601 compare as their times do. */
static int by_time(const void *a, const void *b)
{
    return strcmp(text_of(*(cJSON *const *)a, "time"), text_of(*(cJSON *const *)b, "time"));
}

static void take_lines(const struct node_answers *g, size_t node, cJSON *all)
{
    cJSON *lines = cJSON_GetObjectItemCaseSensitive(g->answers[node].json, "lines");
    double lost = number_of(g->answers[node].json, "lost");

    if (lost > 0)
        fprintf(stderr, "brumactl: %s%s%.0f lines were lost: there are more than can be shown\n",
                g->fleet ? gathered_node(g, node) : "", g->fleet ? ": " : "", lost);
    while (lines && lines->child) {
        cJSON *line = cJSON_DetachItemViaPointer(lines, lines->child);

        if (g->fleet)
            cJSON_AddStringToObject(line, "node", gathered_node(g, node));
        cJSON_AddItemToArray(all, line);
    }
}

static void print_round(const struct node_answers *g, const struct flow_filter *filter)
{
    cJSON *all = cJSON_CreateArray(), *line;
    size_t len, n = 0;

    for (size_t i = 0; i < g->len; i++)
        take_lines(g, i, all);
    len = (size_t)cJSON_GetArraySize(all);
    {
        _cleanup_free_ cJSON **sorted = calloc(len + 1, sizeof(cJSON *));

        cJSON_ArrayForEach (line, all)
            if (sorted)
                sorted[n++] = line;
        if (sorted)
            qsort(sorted, n, sizeof(cJSON *), by_time);
        for (size_t i = 0; i < n; i++)
            if (flow_filter_has(filter, sorted[i]))
                flow_line_print(sorted[i], g->options->json, stdout);
    }
    cJSON_Delete(all);
    fflush(stdout);
}

/* Each node's trouble is said as it begins. */
static void print_trouble(const struct node_answers *g, bool *silent)
{
    for (size_t i = 0; g->fleet && i < g->len; i++) {
        bool now = g->answers[i].code != CTL_OK;

        if (now != silent[i])
            fprintf(stderr, "brumactl: node %s: %s\n", gathered_node(g, i),
                    now ? g->answers[i].complaint : "answers again");
        silent[i] = now;
    }
}

/* ---- the whole ---- */

static uint64_t milliseconds(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

static int follow(const struct ctl_options *o, struct flow_readers *f, bool *silent)
{
    uint64_t end = o->follow ? UINT64_MAX : milliseconds() + (uint64_t)o->seconds * 1000;
    struct timespec pause = {.tv_nsec = PERIOD * 1000000L};
    int r = CTL_OK;

    /* The first round says from where on; the last one comes after the end. */
    for (bool last = false; !last && r == CTL_OK && !interrupted && !ferror(stdout);) {
        struct node_answers g;

        last = milliseconds() >= end;
        r = gather(o, ask_flows, f, &g);
        if (r != CTL_OK)
            break;
        print_trouble(&g, silent);
        print_round(&g, &o->flows);
        fleet_answers_free(&g.answers, g.len);
        if (!last && !interrupted)
            (void)nanosleep(&pause, NULL);
    }
    return r;
}

int command_flows(const struct ctl_options *o, int argc, char **argv)
{
    struct flow_readers f = {.len = o->fleet ? fleet_len(o->fleet) : 1};
    _cleanup_free_ bool *silent = calloc(f.len + 1, sizeof(bool));
    struct sigaction action = {.sa_handler = on_signal};
    int r = CTL_PROBLEM;

    (void)argc;
    (void)argv;
    if (o->flows.reason && reason_from_name(o->flows.reason) == BRUMA_REASON_COUNT) {
        fprintf(stderr, "brumactl: \"%s\" is no reason; brumactl reasons lists them\n", o->flows.reason);
        return CTL_USAGE;
    }
    f.each = calloc(f.len + 1, sizeof(*f.each));
    if (f.each && silent) {
        for (size_t i = 0; o->fleet && i < f.len; i++)
            f.each[i].node = fleet_place(o->fleet, i)->node;
        (void)sigaction(SIGINT, &action, NULL);
        (void)sigaction(SIGTERM, &action, NULL);
        r = follow(o, &f, silent);
    }
    for (size_t i = 0; f.each && i < f.len; i++)
        page_close(&f.each[i].session);
    free(f.each);
    return r;
}
