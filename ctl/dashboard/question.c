/* SPDX-License-Identifier: Apache-2.0 */
#include "ctl/dashboard/question.h"

#include <cjson/cJSON.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "lib/cleanup.h"
#include "lib/list.h"
#include "lib/utf8.h"

struct page_questions {
    struct loop *loop;
    const struct ctl_options *options;
    struct list running;
    unsigned len;
};

struct page_question {
    struct list node;
    struct page_questions *all;
    struct http_request *request;
    struct http_answer how;
    struct child child;
    struct child_text answer, said;
    struct loop_watch out, err;
    struct loop_timer timer;
    const char *trouble; /* why there is no whole answer, or NULL */
};

/* What it has said may be cut, or no text at all. */
static char *quoted(struct page_question *q)
{
    cJSON *text;
    char *json;

    for (char *c = q->said.data; c && *c;) {
        size_t len = utf8_character(c, q->said.len - (size_t)(c - q->said.data));

        if (!len)
            *c = '?';
        c += len ? len : 1;
    }
    text = cJSON_CreateString(q->trouble ? q->trouble : q->said.data ? q->said.data : "");
    json = cJSON_PrintUnformatted(text);
    cJSON_Delete(text);
    return json;
}

static void respond(struct page_question *q, int code)
{
    _cleanup_free_ char *said = quoted(q);
    bool whole = !q->trouble && code >= 0 && q->answer.len;
    char *body = NULL;
    size_t len = 0;
    FILE *f = said ? open_memstream(&body, &len) : NULL;

    if (f) {
        fprintf(f, "{\"code\":%d,\"said\":%s,\"answer\":", q->trouble ? -1 : code, said);
        if (whole)
            fwrite(q->answer.data, 1, q->answer.len, f);
        fputs(whole ? "}\n" : "null}\n", f);
    }
    if (f && fclose(f) == 0)
        http_respond(q->request, &q->how, body, len);
    else
        http_respond_text(q->request, 503, "out of memory\n");
}

/* It has ended, or is ended now. */
static void finish(struct page_question *q, const char *trouble)
{
    struct page_questions *all = q->all;

    q->trouble = trouble;
    loop_timer_cancel(&q->timer);
    loop_watch_remove(all->loop, &q->out);
    loop_watch_remove(all->loop, &q->err);
    respond(q, trouble ? child_end(&q->child) : child_wait(&q->child));
    list_del(&q->node);
    all->len--;
    free(q->answer.data);
    free(q->said.data);
    loop_free_later(all->loop, q);
}

/* Both ends are closed once the process is gone. */
static void on_output(struct loop_watch *watch, uint32_t events)
{
    struct page_question *q = container_of(watch, struct page_question, out);
    int r = child_read(watch->fd, &q->answer, QUESTION_ANSWER_MAX);

    (void)events;
    if (r < 0)
        finish(q, r == -EFBIG ? "the answer is larger than 64 MiB" : "the answer cannot be read");
    else if (r == 0) {
        (void)child_read(q->child.err, &q->said, QUESTION_SAID_MAX);
        finish(q, NULL);
    }
}

static void on_said(struct loop_watch *watch, uint32_t events)
{
    struct page_question *q = container_of(watch, struct page_question, err);
    int r = child_read(watch->fd, &q->said, QUESTION_SAID_MAX);

    (void)events;
    if (r < 0)
        finish(q, "it says more than 64 KiB of complaints");
    else if (r == 0)
        loop_watch_remove(q->all->loop, watch);
}

static void on_timer(struct loop_timer *timer)
{
    finish(container_of(timer, struct page_question, timer), "no answer within 50 seconds");
}

/* ---- the list of them ---- */

struct page_questions *questions_new(struct loop *loop, const struct ctl_options *options)
{
    struct page_questions *all = calloc(1, sizeof(*all));

    if (!all)
        return NULL;
    all->loop = loop;
    all->options = options;
    list_init(&all->running);
    return all;
}

void questions_free(struct page_questions **questions)
{
    struct page_question *q;

    if (!*questions)
        return;
    list_for_each (q, &(*questions)->running, node)
        finish(q, "brumactl ends");
    free(*questions);
    *questions = NULL;
}

static int start(struct page_question *q, child_fn fn, int argc, char **argv)
{
    struct page_questions *all = q->all;
    int r = child_start(all->options, fn, argc, argv, &q->child);

    if (r < 0)
        return r;
    r = loop_watch_add(all->loop, &q->out, q->child.out, EPOLLIN, on_output);
    if (r == 0) {
        r = loop_watch_add(all->loop, &q->err, q->child.err, EPOLLIN, on_said);
        if (r < 0)
            loop_watch_remove(all->loop, &q->out);
    }
    if (r < 0)
        (void)child_end(&q->child);
    return r;
}

void questions_ask(struct page_questions *all, struct http_request *request, const struct http_answer *answer,
                   child_fn fn, int argc, char **argv)
{
    struct page_question *q = all->len < QUESTIONS_MAX ? calloc(1, sizeof(*q)) : NULL;

    if (!q) {
        http_respond_text(request, 503, "too many questions at a time\n");
        return;
    }
    *q = (struct page_question){.all = all, .request = request, .how = *answer};
    loop_timer_init(&q->timer, on_timer);
    if (start(q, fn, argc, argv) < 0) {
        http_respond_text(request, 503, "no process can be started for it\n");
        free(q);
        return;
    }
    list_add_tail(&all->running, &q->node);
    all->len++;
    loop_timer_set(all->loop, &q->timer, QUESTION_MILLISECONDS);
}
