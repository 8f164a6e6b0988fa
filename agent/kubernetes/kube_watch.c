/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/kubernetes/kube_watch.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "agent/kubernetes/kube_object.h"
#include "lib/message.h"

#define LOG_SCOPE "kube"
#include "lib/log.h"

#define WATCH_SECONDS  300 /* that the server is asked to keep a watch open; half as many more at random */
#define WATCH_SLACK_MS 20000
#define LIST_MS        60000
#define SHORT_WATCH_MS 1000 /* a watch that ends sooner, with nothing told, counts as a failure */

struct kube_watch {
    struct loop *loop;
    struct kube_client *client;
    struct kube_watch_config config;
    struct kube_watch_events events;
    struct kube_watch_report report;
    struct kube_request *request;
    struct loop_timer timer; /* of the next try */
    unsigned tries;          /* failures in a row */
    unsigned expired;        /* forgotten versions in a row */
    bool relist;             /* what comes next is a list from its beginning */
    char version[KUBE_VERSION_MAX + 1];
    char continue_token[KUBE_CONTINUE_MAX + 1];
    char *line; /* the part of a line that has come */
    size_t line_len, line_size;
    uint64_t began; /* loop time of the watch */
    bool received;  /* it said something */
};

static void set_following(struct kube_watch *w, bool following)
{
    if (w->report.following != following)
        w->report.since = (int64_t)time(NULL);
    w->report.following = following;
}

static void try_later(struct kube_watch *w)
{
    set_following(w, false);
    w->line_len = 0;
    loop_timer_set(w->loop, &w->timer, kube_backoff(w->tries));
    w->tries++;
}

__attribute__((format(printf, 2, 3))) static void failed(struct kube_watch *w, const char *format, ...)
{
    char quoted[sizeof(w->report.error) * 2];
    va_list ap;

    va_start(ap, format);
    vsnprintf(w->report.error, sizeof(w->report.error), format, ap);
    va_end(ap);
    try_later(w);
    log_warn("the API server cannot be watched; retrying\twhat=%s tries=%u error=%s", w->config.what,
             w->tries, log_quote(quoted, sizeof(quoted), w->report.error));
}

static void failed_reply(struct kube_watch *w, const char *step, const struct kube_reply *reply)
{
    char text[200];

    if (reply->result) {
        failed(w, "%s: %.200s", step, reply->error);
        return;
    }
    kube_status_text(reply->body, reply->len, text, sizeof(text));
    failed(w, "%s: HTTP status %d: %s", step, reply->status, text);
}

/* The server no longer has the version. Listing at once is only good once in a row. */
static void expired(struct kube_watch *w)
{
    w->relist = true;
    log_info("the watched version has expired; listing again\twhat=%s", w->config.what);
    if (w->expired++)
        try_later(w);
    else
        loop_timer_set(w->loop, &w->timer, 0);
}

/* ---- URLs ---- */

static int add_parameter(char *url, size_t size, const char *name, const char *value)
{
    size_t len = strlen(url);

    if (snprintf(url + len, size - len, "%c%s=", strchr(url, '?') ? '&' : '?', name) >= (int)(size - len))
        return -ENAMETOOLONG;
    return kube_append_encoded(url, size, value);
}

static int begin_url(const struct kube_watch *w, char *url, size_t size)
{
    if (snprintf(url, size, "%s", w->config.path) >= (int)size)
        return -ENAMETOOLONG;
    return w->config.selector ? add_parameter(url, size, "fieldSelector", w->config.selector) : 0;
}

/* ---- the watch ---- */

static void next_step(struct kube_watch *w);

/* The line is understood and told. False if the stream is of no use any more. */
static bool take_line(struct kube_watch *w, const char *text, size_t len)
{
    struct kube_line line;
    char why[256];

    if (kube_line_decode(text, len, &line, why, sizeof(why)) < 0) {
        w->relist = true;
        failed(w, "watch: %s", why);
        return false;
    }
    _cleanup_message_ cJSON *json = line.json;

    if (line.type == KUBE_LINE_ERROR) {
        w->relist = true;
        if (line.code == 410)
            expired(w);
        else
            failed(w, "watch: error %d: %.180s", line.code, line.message);
        return false;
    }
    w->received = true;
    w->tries = w->expired = 0;
    if (line.type != KUBE_LINE_BOOKMARK)
        w->events.object(w->events.data, line.object, line.type == KUBE_LINE_DELETED);
    if (*line.version)
        snprintf(w->version, sizeof(w->version), "%s", line.version);
    return true;
}

static int keep(struct kube_watch *w, const char *bytes, size_t len)
{
    if (len > KUBE_LINE_MAX - w->line_len)
        return -EFBIG;
    if (w->line_len + len > w->line_size) {
        size_t size = 2 * (w->line_len + len);
        char *line = realloc(w->line, size);

        if (!line)
            return -ENOMEM;
        w->line = line;
        w->line_size = size;
    }
    memcpy(w->line + w->line_len, bytes, len);
    w->line_len += len;
    return 0;
}

/* Lets go of what a single large object needed. */
static void shrink(struct kube_watch *w)
{
    if (w->line_len || w->line_size < 256 * 1024)
        return;
    free(w->line);
    w->line = NULL;
    w->line_size = 0;
}

static void on_part(void *data, const char *bytes, size_t len)
{
    struct kube_watch *w = data;
    bool good = true;

    set_following(w, true);
    w->report.error[0] = '\0';
    while (len && good) {
        const char *end = memchr(bytes, '\n', len);
        size_t part = end ? (size_t)(end - bytes) : len;
        int r = end && !w->line_len ? 0 : keep(w, bytes, part);

        if (r < 0) {
            w->relist = true;
            failed(w, "watch: %s",
                   r == -EFBIG ? "a line of more than 4 MiB" : "no memory for a line of the watch");
            good = false;
        } else if (end) {
            const char *text = w->line_len ? w->line : bytes;
            size_t text_len = w->line_len ? w->line_len : part;

            w->line_len = 0;
            good = !text_len || take_line(w, text, text_len);
            part++;
        }
        bytes += part;
        len -= part;
    }
    shrink(w);
    if (!good) {
        w->line_len = 0;
        kube_cancel(&w->request);
    }
}

static void on_watch_done(void *data, const struct kube_reply *reply)
{
    struct kube_watch *w = data;
    bool soon = loop_now(w->loop) - w->began < SHORT_WATCH_MS && !w->received;

    w->request = NULL;
    if (reply->result == 0 && reply->status == 410) {
        expired(w);
    } else if (reply->result || reply->status != 200) {
        failed_reply(w, "watch", reply);
    } else if (soon) {
        failed(w, "watch: the server ended it at once");
    } else {
        /* The server's time limit. What came of an unfinished line comes again. */
        w->tries = w->expired = 0;
        loop_timer_set(w->loop, &w->timer, 0);
    }
}

static int start_watch(struct kube_watch *w)
{
    unsigned seconds = WATCH_SECONDS + kube_backoff(8) / 200; /* up to 150 s of noise */
    char url[KUBE_URL_MAX], number[16];
    struct kube_call call = {.path = url,
                             .body_max = 2 * KUBE_LINE_MAX,
                             .deadline = seconds * 1000 + WATCH_SLACK_MS,
                             .part = on_part,
                             .done = on_watch_done,
                             .data = w};
    int r = begin_url(w, url, sizeof(url));

    snprintf(number, sizeof(number), "%u", seconds);
    if (r == 0)
        r = add_parameter(url, sizeof(url), "watch", "1");
    if (r == 0)
        r = add_parameter(url, sizeof(url), "allowWatchBookmarks", "true");
    if (r == 0)
        r = add_parameter(url, sizeof(url), "timeoutSeconds", number);
    if (r == 0)
        r = add_parameter(url, sizeof(url), "resourceVersion", w->version);
    w->began = loop_now(w->loop);
    w->received = false;
    w->line_len = 0;
    w->report.restarts++;
    return r < 0 ? r : kube_send(w->client, &call, &w->request);
}

/* ---- the list ---- */

static void take_page(struct kube_watch *w, const struct kube_list *list)
{
    const cJSON *object;

    if (!*w->continue_token)
        w->events.list_begins(w->events.data);
    cJSON_ArrayForEach (object, list->items)
        w->events.object(w->events.data, object, false);
    snprintf(w->version, sizeof(w->version), "%s", list->version);
    snprintf(w->continue_token, sizeof(w->continue_token), "%s", list->continue_token);
    w->report.error[0] = '\0';
    if (*w->continue_token)
        return;
    w->relist = false;
    set_following(w, true);
    if (!w->report.synced)
        log_info("the list from the API server is complete\twhat=%s version=%s", w->config.what, w->version);
    w->report.synced = true;
    w->events.list_complete(w->events.data);
}

static void on_list_done(void *data, const struct kube_reply *reply)
{
    struct kube_watch *w = data;
    struct kube_list list;
    char why[256];

    w->request = NULL;
    if (reply->result == 0 && reply->status == 410 && *w->continue_token) {
        /* The pages took too long; the list begins anew. */
        w->continue_token[0] = '\0';
        try_later(w);
        return;
    }
    if (reply->result || reply->status != 200) {
        failed_reply(w, "list", reply);
        return;
    }
    if (kube_list_decode(reply->body, reply->len, &list, why, sizeof(why)) < 0) {
        w->continue_token[0] = '\0';
        failed(w, "list: %s", why);
        return;
    }
    take_page(w, &list);
    cJSON_Delete(list.json);
    next_step(w);
}

static int start_list(struct kube_watch *w)
{
    char url[KUBE_URL_MAX], number[16];
    struct kube_call call = {
        .path = url, .body_max = KUBE_PAGE_MAX, .deadline = LIST_MS, .done = on_list_done, .data = w};
    int r = begin_url(w, url, sizeof(url));

    snprintf(number, sizeof(number), "%u", w->config.page);
    if (r == 0)
        r = add_parameter(url, sizeof(url), "limit", number);
    if (r == 0 && *w->continue_token)
        r = add_parameter(url, sizeof(url), "continue", w->continue_token);
    if (!*w->continue_token)
        w->report.lists++;
    return r < 0 ? r : kube_send(w->client, &call, &w->request);
}

static void next_step(struct kube_watch *w)
{
    int r = w->relist || *w->continue_token ? start_list(w) : start_watch(w);

    if (r < 0)
        failed(w, "no request can be made: %s", strerror(-r));
}

static void on_timer(struct loop_timer *timer)
{
    struct kube_watch *w = container_of(timer, struct kube_watch, timer);

    next_step(w);
}

int kube_watch_new(struct loop *loop, struct kube_client *client, const struct kube_watch_config *config,
                   const struct kube_watch_events *events, struct kube_watch **ret)
{
    struct kube_watch *w = calloc(1, sizeof(*w));

    if (!w)
        return -ENOMEM;
    w->loop = loop;
    w->client = client;
    w->config = *config;
    w->events = *events;
    w->relist = true;
    w->report.since = (int64_t)time(NULL);
    loop_timer_init(&w->timer, on_timer);
    loop_timer_set(loop, &w->timer, 0);
    *ret = w;
    return 0;
}

void kube_watch_free(struct kube_watch **watch)
{
    struct kube_watch *w = *watch;

    if (!w)
        return;
    kube_cancel(&w->request);
    loop_timer_cancel(&w->timer);
    free(w->line);
    free(w);
    *watch = NULL;
}

const struct kube_watch_report *kube_watch_report(const struct kube_watch *watch)
{
    return &watch->report;
}
