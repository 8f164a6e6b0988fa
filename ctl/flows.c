/* SPDX-License-Identifier: Apache-2.0 */
/* Connections as they are opened, closed and refused, of all nodes. */
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "ctl/fleet.h"
#include "ctl/flow_feeds.h"
#include "ctl/flow_line.h"
#include "ctl/gather.h"
#include "ctl/interrupt.h"
#include "ctl/source.h"
#include "lib/cleanup.h"
#include "lib/reasons.h"

#define LAST_ANSWERS 3000 /* milliseconds for them, once the time is over */

/* ---- what they say ---- */

/* Of all nodes, by time: texts in a form of ISO 8601 compare as their times do. */
static int by_time(const void *a, const void *b)
{
    return strcmp(text_of(*(cJSON *const *)a, "time"), text_of(*(cJSON *const *)b, "time"));
}

/* What of a node there is to say, on stderr; nothing where node is "": this machine. */
__attribute__((format(printf, 2, 3))) static void tell(const char *node, const char *format, ...)
{
    va_list ap;

    fprintf(stderr, "brumactl: %s%s%s", *node ? "node " : "", node, *node ? ": " : "");
    va_start(ap, format);
    vfprintf(stderr, format, ap);
    va_end(ap);
    fputc('\n', stderr);
}

/* The answer's lines move to all of this round. */
static void take_lines(const struct flow_news *news, cJSON *all)
{
    cJSON *lines = cJSON_GetObjectItemCaseSensitive(news->answer, "lines");

    while (cJSON_IsArray(lines) && lines->child) {
        cJSON *line = cJSON_DetachItemViaPointer(lines, lines->child);

        if (*news->node)
            cJSON_AddStringToObject(line, "node", news->node);
        cJSON_AddItemToArray(all, line);
    }
}

static void print_lines(const cJSON *all, const struct ctl_options *o)
{
    size_t len = (size_t)cJSON_GetArraySize(all), n = 0;
    _cleanup_free_ const cJSON **sorted = calloc(len + 1, sizeof(cJSON *));
    const cJSON *line;

    if (!sorted)
        return;
    cJSON_ArrayForEach (line, all)
        sorted[n++] = line;
    qsort(sorted, n, sizeof(cJSON *), by_time);
    for (size_t i = 0; i < n; i++)
        if (flow_filter_has(&o->flows, sorted[i]))
            flow_line_print(sorted[i], o->json, stdout);
    fflush(stdout);
}

/* ---- nodes that answer, and others ---- */

enum feed_state { FEED_NEW, FEED_ANSWERS, FEED_SILENT };

struct feed_states {
    enum feed_state *each;
    size_t len;
    bool answered; /* one of them has */
};

/* Each node's trouble is said as it begins and as it ends, with what is missing. */
static void take_state(struct feed_states *states, size_t i, const struct flow_news *news)
{
    enum feed_state before = states->each[i];
    double lost = number_of(news->answer, "lost");

    states->each[i] = news->answer ? FEED_ANSWERS : FEED_SILENT;
    states->answered = states->answered || news->answer;
    if (!news->answer && before != FEED_SILENT)
        tell(news->node, "%s", news->complaint);
    if (news->answer && before == FEED_SILENT)
        tell(news->node, "answers again");
    if (news->gap > 0)
        tell(news->node, "a gap: what happened in the last %.0f seconds is not known", news->gap);
    if (lost > 0)
        tell(news->node, "%.0f lines were lost: there are more than can be shown", lost);
}

static bool nobody_answers(const struct feed_states *states)
{
    for (size_t i = 0; i < states->len; i++)
        if (states->each[i] == FEED_NEW)
            return false;
    return !states->answered;
}

/* All that has come. */
static void take_round(struct flow_feeds *feeds, struct feed_states *states, const struct ctl_options *o)
{
    cJSON *all = cJSON_CreateArray();

    for (size_t i = 0; i < states->len; i++) {
        struct flow_news news;

        if (!flow_feeds_take(feeds, i, &news))
            continue;
        take_state(states, i, &news);
        take_lines(&news, all);
        cJSON_Delete(news.answer);
    }
    print_lines(all, o);
    cJSON_Delete(all);
}

/* ---- the whole ---- */

static uint64_t milliseconds(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

static bool goes_on(void)
{
    return !interrupted() && !ferror(stdout);
}

/* The first answers say from where on; the last ones come after the end. */
static int follow(struct flow_feeds *feeds, struct feed_states *states, const struct ctl_options *o)
{
    uint64_t end = o->follow ? UINT64_MAX : milliseconds() + (uint64_t)o->seconds * 1000;
    struct timespec pause = {.tv_nsec = FLOW_FEEDS_PERIOD * 1000000L / 2};

    while (goes_on() && milliseconds() < end && !nobody_answers(states)) {
        (void)nanosleep(&pause, NULL);
        take_round(feeds, states, o);
    }
    end = milliseconds() + LAST_ANSWERS;
    flow_feeds_finish(feeds);
    while (goes_on() && milliseconds() < end && !flow_feeds_ended(feeds)) {
        pause.tv_nsec = 20000000;
        (void)nanosleep(&pause, NULL);
        take_round(feeds, states, o);
    }
    return states->answered || interrupted() ? CTL_OK : CTL_UNREACHABLE;
}

int command_flows(const struct ctl_options *o, int argc, char **argv)
{
    struct feed_states states = {.len = o->fleet ? fleet_len(o->fleet) : 1};
    struct flow_feeds *feeds;
    int r;

    (void)argc;
    (void)argv;
    if (o->flows.reason && reason_from_name(o->flows.reason) == BRUMA_REASON_COUNT) {
        fprintf(stderr, "brumactl: \"%s\" is no reason; brumactl reasons lists them\n", o->flows.reason);
        return CTL_USAGE;
    }
    if (!states.len)
        return gathered_nobody(o);
    states.each = calloc(states.len, sizeof(*states.each));
    r = states.each ? flow_feeds_open(o, &feeds) : -ENOMEM;
    if (r == 0) {
        interrupt_catch();
        r = follow(feeds, &states, o);
        flow_feeds_close(&feeds);
    } else {
        fprintf(stderr, "brumactl: cannot ask the proxies: %s\n", strerror(-r));
        r = CTL_PROBLEM;
    }
    free(states.each);
    return r;
}
