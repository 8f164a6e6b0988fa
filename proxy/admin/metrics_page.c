/* SPDX-License-Identifier: Apache-2.0 */
#define LOG_SCOPE "admin"
#include "proxy/admin/metrics_page.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "lib/cleanup.h"
#include "lib/log.h"
#include "lib/rpc/http_accept.h"

#define REST 3 /* times what a page took, before the next one is begun */

struct page_waiter {
    struct page_waiter *next;
    struct http_request *request; /* NULL: who takes the text */
    void (*taken)(void *data, const char *text, size_t len);
    void *data;
};

struct metrics_page {
    struct loop *loop;
    struct metrics_page_source source;
    struct loop_timer again;
    struct loop_watch made;             /* an eventfd */
    struct page_waiter *running, *next; /* who waits for the one that is made, and for the one after */
    bool is_running;
    uint64_t rests_until; /* milliseconds of CLOCK_MONOTONIC */

    /* The thread's, while it runs. */
    pthread_t thread;
    char *own;
    size_t own_len;
    struct http_body *body; /* NULL: it could not be made */
    bool gzip;
    uint64_t took;
};

static uint64_t milliseconds(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

static void start(struct metrics_page *p);

static void answer_request(struct http_request *request, struct http_body *body)
{
    const struct http_answer plain = {.status = 200, .type = "text/plain; charset=utf-8", .compress = true};
    const struct http_answer openmetrics = {
        .status = 200, .type = "application/openmetrics-text;charset=utf-8;version=1.0.0", .compress = true};
    bool wants = http_accepts(http_header(request, "Accept"), "application/openmetrics-text", NULL);

    if (body)
        http_respond_body(request, wants ? &openmetrics : &plain, body);
    else
        http_respond_text(request, 503, "the page could not be made\n");
}

static void answer(struct page_waiter **list, struct http_body *body)
{
    while (*list) {
        struct page_waiter *w = *list;
        size_t len = 0;
        const char *text = body ? http_body_text(body, &len) : NULL;

        *list = w->next;
        if (w->request)
            answer_request(w->request, body);
        else
            w->taken(w->data, text, len);
        free(w);
    }
}

static void on_made(struct loop_watch *watch, uint32_t events)
{
    struct metrics_page *p = container_of(watch, struct metrics_page, made);
    uint64_t n;

    (void)events;
    if (read(watch->fd, &n, sizeof(n)) != sizeof(n) || !p->is_running)
        return;
    pthread_join(p->thread, NULL);
    p->is_running = false;
    p->rests_until = milliseconds() + REST * p->took;
    answer(&p->running, p->body);
    http_body_unref(&p->body);
    if (p->next)
        start(p);
}

static void *make(void *data)
{
    const uint64_t one = 1;
    struct metrics_page *p = data;
    uint64_t began = milliseconds();
    char *text = NULL;
    size_t len = 0;
    FILE *out = open_memstream(&text, &len);
    bool failed = true;

    if (out) {
        p->source.large(p->source.data, out);
        fwrite(p->own, 1, p->own_len, out);
        fputs("# EOF\n", out);
        failed = ferror(out) != 0;
        /* A scrape that is cut would look like counters that are gone. */
        failed |= fclose(out) != 0;
    }
    free(p->own);
    p->own = NULL;
    if (failed)
        free(text);
    else
        p->body = http_body_new(text, len, p->gzip);
    p->took = milliseconds() - began;
    if (write(p->made.fd, &one, sizeof(one)) != sizeof(one))
        abort(); /* a counter that was read to zero takes one */
    return NULL;
}

static bool wants_gzip(const struct page_waiter *list)
{
    for (; list; list = list->next) {
        if (list->request && http_request_accepts_gzip(list->request))
            return true;
    }
    return false;
}

static void start(struct metrics_page *p)
{
    uint64_t now = milliseconds();
    FILE *out;

    if (p->is_running)
        return;
    if (now < p->rests_until) {
        loop_timer_set(p->loop, &p->again, p->rests_until - now);
        return;
    }
    p->running = p->next;
    p->next = NULL;
    p->gzip = wants_gzip(p->running);
    p->own_len = 0;
    out = open_memstream(&p->own, &p->own_len);
    if (out) {
        p->source.own(p->source.data, out);
        if (fclose(out) == 0 && pthread_create(&p->thread, NULL, make, p) == 0) {
            p->is_running = true;
            return;
        }
        free(p->own);
        p->own = NULL;
    }
    log_warn("a page of metrics cannot be made: no memory, or no thread");
    answer(&p->running, NULL);
}

static void on_again(struct loop_timer *timer)
{
    struct metrics_page *p = container_of(timer, struct metrics_page, again);

    if (p->next)
        start(p);
}

static void wait_for_page(struct metrics_page *p, const struct page_waiter *waiter)
{
    struct page_waiter *w = malloc(sizeof(*w));

    if (w) {
        *w = *waiter;
        w->next = p->next;
        p->next = w;
        start(p);
        return;
    }
    if (waiter->request)
        http_respond_text(waiter->request, 503, "out of memory\n");
    else if (waiter->taken)
        waiter->taken(waiter->data, NULL, 0);
}

void metrics_page_ask(struct metrics_page *p, struct http_request *request)
{
    wait_for_page(p, &(struct page_waiter){.request = request});
}

void metrics_page_take(struct metrics_page *p, void (*taken)(void *data, const char *text, size_t len),
                       void *data)
{
    wait_for_page(p, &(struct page_waiter){.taken = taken, .data = data});
}

int metrics_page_new(struct loop *loop, const struct metrics_page_source *source, struct metrics_page **ret)
{
    struct metrics_page *p = calloc(1, sizeof(*p));
    _cleanup_fd_ int fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    int r = !p ? -ENOMEM : fd < 0 ? -errno : loop_watch_add(loop, &p->made, fd, EPOLLIN, on_made);

    if (r < 0) {
        free(p);
        return r;
    }
    (void)take_fd(&fd);
    p->loop = loop;
    p->source = *source;
    loop_timer_init(&p->again, on_again);
    *ret = p;
    return 0;
}

void metrics_page_free(struct metrics_page **page)
{
    struct metrics_page *p = *page;
    int fd;

    if (!p)
        return;
    fd = p->made.fd;
    loop_watch_remove(p->loop, &p->made);
    loop_timer_cancel(&p->again);
    if (p->is_running) {
        pthread_join(p->thread, NULL);
        p->is_running = false;
        http_body_unref(&p->body);
    }
    answer(&p->running, NULL);
    answer(&p->next, NULL);
    close(fd); /* after the thread has ended */
    loop_free_later(p->loop, p);
    *page = NULL;
}
