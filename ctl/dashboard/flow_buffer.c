/* SPDX-License-Identifier: Apache-2.0 */
#include "ctl/dashboard/flow_buffer.h"

#include <cjson/cJSON.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "ctl/commands.h"
#include "lib/cleanup.h"

struct flow_buffer {
    struct loop *loop;
    struct ctl_options options; /* of flows */
    char *lines[FLOW_LINES_MAX];
    uint64_t first, next; /* numbers of the oldest line, and of the one that comes */
    size_t bytes;
    struct child child;
    struct loop_watch out, err;
    struct loop_timer idle;
    struct child_text part, said; /* what has come, up to the end of the last line */
    bool skipping;                /* a line that is too long */
    char *complaint;
    uint64_t started; /* milliseconds of the loop */
};

/* ---- lines ---- */

static char **slot_of(struct flow_buffer *b, uint64_t number)
{
    return &b->lines[number % FLOW_LINES_MAX];
}

static void drop_oldest(struct flow_buffer *b)
{
    char **slot = slot_of(b, b->first++);

    b->bytes -= strlen(*slot);
    free(*slot);
    *slot = NULL;
}

static void keep(struct flow_buffer *b, const char *line, size_t len)
{
    char *copy = len && len <= FLOW_LINE_MAX ? strndup(line, len) : NULL;

    if (!copy)
        return;
    len = strlen(copy);
    while (b->first < b->next && (b->next - b->first >= FLOW_LINES_MAX || b->bytes + len > FLOW_BYTES_MAX))
        drop_oldest(b);
    *slot_of(b, b->next++) = copy;
    b->bytes += len;
}

/* Whole lines are taken out of what has come. */
static void take_lines(struct flow_buffer *b)
{
    struct child_text *t = &b->part;
    char *at = t->data, *end;

    while (at && (end = memchr(at, '\n', t->len - (size_t)(at - t->data)))) {
        if (!b->skipping)
            keep(b, at, (size_t)(end - at));
        b->skipping = false;
        at = end + 1;
    }
    if (!at)
        return;
    t->len -= (size_t)(at - t->data);
    memmove(t->data, at, t->len + 1);
    if (t->len > FLOW_LINE_MAX) {
        b->skipping = true;
        t->len = 0;
    }
}

/* The last whole line of what it says. */
static void take_complaint(struct flow_buffer *b)
{
    char *end = b->said.data ? strrchr(b->said.data, '\n') : NULL, *begin;

    if (!end)
        return;
    *end = '\0';
    begin = strrchr(b->said.data, '\n');
    free(b->complaint);
    b->complaint = strdup(begin ? begin + 1 : b->said.data);
    b->said.len = 0;
}

/* ---- the command ---- */

static void end(struct flow_buffer *b)
{
    if (!b->child.pid)
        return;
    loop_watch_remove(b->loop, &b->out);
    loop_watch_remove(b->loop, &b->err);
    (void)child_end(&b->child);
    b->part.len = b->said.len = 0;
    b->skipping = false;
}

/* It ends by itself where nobody answers. */
static void on_output(struct loop_watch *watch, uint32_t events)
{
    struct flow_buffer *b = container_of(watch, struct flow_buffer, out);
    int r = child_read(watch->fd, &b->part, FLOW_BYTES_MAX);

    (void)events;
    take_lines(b);
    if (r == 1 || r == -EFBIG)
        return;
    (void)child_read(b->child.err, &b->said, FLOW_SAID_MAX);
    take_complaint(b);
    end(b);
}

static void on_said(struct loop_watch *watch, uint32_t events)
{
    struct flow_buffer *b = container_of(watch, struct flow_buffer, err);
    int r = child_read(watch->fd, &b->said, FLOW_SAID_MAX);

    (void)events;
    take_complaint(b);
    if (r < 0)
        end(b);
    else if (r == 0)
        loop_watch_remove(b->loop, watch);
}

static void on_idle(struct loop_timer *timer)
{
    end(container_of(timer, struct flow_buffer, idle));
}

static void start(struct flow_buffer *b)
{
    uint64_t now = loop_now(b->loop);

    if (b->child.pid || (b->started && now - b->started < FLOW_AGAIN_MILLISECONDS))
        return;
    b->started = now;
    if (child_start(&b->options, command_flows, 0, NULL, &b->child) < 0)
        return;
    free(take_pointer(b->complaint));
    if (loop_watch_add(b->loop, &b->out, b->child.out, EPOLLIN, on_output) < 0) {
        (void)child_end(&b->child);
        return;
    }
    if (loop_watch_add(b->loop, &b->err, b->child.err, EPOLLIN, on_said) < 0) {
        loop_watch_remove(b->loop, &b->out);
        (void)child_end(&b->child);
    }
}

/* ---- the whole ---- */

struct flow_buffer *flow_buffer_new(struct loop *loop, const struct ctl_options *options)
{
    struct flow_buffer *b = calloc(1, sizeof(*b));

    if (!b)
        return NULL;
    b->loop = loop;
    b->options = *options;
    b->options.json = b->options.follow = true;
    b->options.flows = (struct flow_filter){};
    b->first = b->next = 1;
    loop_timer_init(&b->idle, on_idle);
    return b;
}

void flow_buffer_free(struct flow_buffer **buffer)
{
    struct flow_buffer *b = *buffer;

    if (!b)
        return;
    end(b);
    loop_timer_cancel(&b->idle);
    while (b->first < b->next)
        drop_oldest(b);
    free(b->part.data);
    free(b->said.data);
    free(b->complaint);
    free(b);
    *buffer = NULL;
}

void flow_buffer_tell(struct flow_buffer *b, uint64_t above, FILE *out)
{
    const bool known = above && above < b->next;
    uint64_t from = known && above >= b->first ? above + 1 : b->first;
    cJSON *complaint;
    char *said;

    start(b);
    loop_timer_set(b->loop, &b->idle, FLOW_IDLE_MILLISECONDS);
    complaint = cJSON_CreateString(b->complaint ? b->complaint : "");
    said = cJSON_PrintUnformatted(complaint);
    fprintf(out, "{\"next\":%llu,\"lost\":%llu,\"runs\":%s,\"said\":%s,\"lines\":[",
            (unsigned long long)b->next - 1, (unsigned long long)(known ? from - above - 1 : 0),
            b->child.pid ? "true" : "false", said ? said : "\"\"");
    for (uint64_t i = from; i < b->next; i++)
        fprintf(out, "%s%s", i > from ? "," : "", *slot_of(b, i));
    fputs("]}\n", out);
    cJSON_Delete(complaint);
    free(said);
}
