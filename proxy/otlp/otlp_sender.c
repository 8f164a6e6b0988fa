/* SPDX-License-Identifier: Apache-2.0 */
#define LOG_SCOPE "otlp"
#include "proxy/otlp/otlp_sender.h"

#include <curl/curl.h>
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

#include "lib/log.h"
#include "lib/log_rest.h"
#include "lib/tls_policy.h"
#include "proxy/otlp/otlp_answer.h"
#include "proxy/otlp/otlp_body.h"
#include "proxy/otlp/otlp_metrics.h"

#define CONNECT_MS 5000L

struct otlp_sender {
    const struct otlp_config *config;
    enum otlp_signal signal;
    struct otlp_queue *queue;
    pthread_t thread;
    CURL *easy;
    struct curl_slist *headers;
    char error[CURL_ERROR_SIZE];
    uint8_t answer[OTLP_ANSWER_MAX];
    size_t answer_len;
    bool answer_too_long;
    uint64_t started; /* nanoseconds of the wall clock */
    bool away;        /* the last attempt has failed, and was told of */
    struct log_rest rest_failed, rest_rejected;
    uint64_t exported, failures; /* relaxed atomics */
};

/* ---- one request ---- */

static size_t on_body(char *data, size_t size, size_t count, void *to)
{
    struct otlp_sender *s = to;
    size_t len = size * count;

    if (len > sizeof(s->answer) - s->answer_len) {
        s->answer_too_long = true;
        return 0;
    }
    memcpy(s->answer + s->answer_len, data, len);
    s->answer_len += len;
    return len;
}

/* The process is about to end. */
static int on_progress(void *data, curl_off_t a, curl_off_t b, curl_off_t c, curl_off_t d)
{
    struct otlp_sender *s = data;

    (void)a;
    (void)b;
    (void)c;
    (void)d;
    return otlp_queue_left(s->queue) == 0;
}

static CURLcode limit_tls(CURL *easy, void *context, void *data)
{
    (void)easy;
    (void)data;
    return tls_policy_apply(context) < 0 ? CURLE_SSL_CIPHER : CURLE_OK;
}

/* The connection is there, and nothing has been sent on it. */
static int on_connected(void *data, char *local, char *remote, int local_port, int remote_port)
{
    struct otlp_sender *s = data;
    struct curl_tlssessioninfo *tls = NULL;

    (void)local;
    (void)remote;
    (void)local_port;
    (void)remote_port;
    if (curl_easy_getinfo(s->easy, CURLINFO_TLS_SSL_PTR, &tls) != CURLE_OK || !tls || !tls->internals)
        return CURL_PREREQFUNC_OK; /* http */
    return tls_policy_met(tls->internals) ? CURL_PREREQFUNC_OK : CURL_PREREQFUNC_ABORT;
}

static bool add_header(struct otlp_sender *s, const char *line)
{
    struct curl_slist *longer = curl_slist_append(s->headers, line);

    if (longer)
        s->headers = longer;
    return longer != NULL;
}

static bool add_headers(struct otlp_sender *s)
{
    bool done = add_header(s, "Content-Type: application/x-protobuf") && add_header(s, "Expect:");

    if (s->config->gzip)
        done = done && add_header(s, "Content-Encoding: gzip");
    for (char **line = s->config->headers; done && *line; line++)
        done = add_header(s, *line);
    return done;
}

static int set_up(struct otlp_sender *s)
{
    const char *url = s->config->urls[s->signal];
    CURL *e = s->easy = curl_easy_init();

    if (!e || !add_headers(s) || curl_easy_setopt(e, CURLOPT_URL, url) != CURLE_OK)
        return -ENOMEM;
    curl_easy_setopt(e, CURLOPT_PROTOCOLS_STR, "http,https");
    curl_easy_setopt(e, CURLOPT_PROXY, "");
    curl_easy_setopt(e, CURLOPT_NOSIGNAL, 1L);
#if LIBCURL_VERSION_NUM >= 0x075700
    /* The end does not wait for the thread that resolves a name. */
    curl_easy_setopt(e, CURLOPT_QUICK_EXIT, 1L);
#endif
    curl_easy_setopt(e, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
    curl_easy_setopt(e, CURLOPT_USERAGENT, "bruma-proxy/" BRUMA_VERSION);
    curl_easy_setopt(e, CURLOPT_HTTPHEADER, s->headers);
    curl_easy_setopt(e, CURLOPT_CONNECTTIMEOUT_MS, CONNECT_MS);
    curl_easy_setopt(e, CURLOPT_WRITEFUNCTION, on_body);
    curl_easy_setopt(e, CURLOPT_WRITEDATA, s);
    curl_easy_setopt(e, CURLOPT_NOPROGRESS, 0L);
    curl_easy_setopt(e, CURLOPT_XFERINFOFUNCTION, on_progress);
    curl_easy_setopt(e, CURLOPT_XFERINFODATA, s);
    curl_easy_setopt(e, CURLOPT_ERRORBUFFER, s->error);
    curl_easy_setopt(e, CURLOPT_POST, 1L);
    if (s->config->certificate) {
        curl_easy_setopt(e, CURLOPT_CAINFO, s->config->certificate);
        curl_easy_setopt(e, CURLOPT_CAPATH, NULL);
    }
    if (strncmp(url, "https:", 6) != 0)
        return 0;
    curl_easy_setopt(e, CURLOPT_PREREQFUNCTION, on_connected);
    curl_easy_setopt(e, CURLOPT_PREREQDATA, s);
    return curl_easy_setopt(e, CURLOPT_SSL_CTX_FUNCTION, limit_tls) == CURLE_OK ? 0 : -ENOTSUP;
}

static void perform(struct otlp_sender *s, const struct otlp_body *body, uint64_t items,
                    struct otlp_answer *ret, uint64_t *ret_retry_after)
{
    uint64_t left = otlp_queue_left(s->queue), timeout = s->config->timeout;
    curl_off_t retry_after = 0;
    long status = 0;
    CURLcode code;

    s->answer_len = 0;
    s->answer_too_long = false;
    s->error[0] = '\0';
    curl_easy_setopt(s->easy, CURLOPT_TIMEOUT_MS, (long)(left < timeout ? left + 1 : timeout));
    curl_easy_setopt(s->easy, CURLOPT_POSTFIELDS, body->data);
    curl_easy_setopt(s->easy, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)body->len);
    code = curl_easy_perform(s->easy);
    (void)curl_easy_getinfo(s->easy, CURLINFO_RESPONSE_CODE, &status);
    (void)curl_easy_getinfo(s->easy, CURLINFO_RETRY_AFTER, &retry_after);
    *ret_retry_after = retry_after > 0 ? (uint64_t)retry_after : 0;
    if (code == CURLE_OK || s->answer_too_long) {
        otlp_answer_read(status, s->answer, s->answer_too_long ? 0 : s->answer_len, items, ret);
        snprintf(s->error, sizeof(s->error), "status %ld", status);
        return;
    }
    *ret = (struct otlp_answer){.outcome = OTLP_AGAIN};
    if (!s->error[0])
        snprintf(s->error, sizeof(s->error), "%s", curl_easy_strerror(code));
}

/* ---- what is told ---- */

static void tell_failure(struct otlp_sender *s, const struct otlp_answer *answer)
{
    char why[400], said[2 * OTLP_SAID_MAX];
    uint64_t unsaid;

    __atomic_fetch_add(&s->failures, 1, __ATOMIC_RELAXED);
    if (!log_rest_over(&s->rest_failed, otlp_now(), &unsaid))
        return;
    s->away = true;
    log_warn("%s cannot be exported\turl=%s error=%s answer=%s more=%llu", otlp_signal_name(s->signal),
             s->config->urls[s->signal], log_quote(why, sizeof(why), s->error),
             log_quote(said, sizeof(said), answer->said), (unsigned long long)unsaid);
}

static void tell_taken(struct otlp_sender *s, const struct otlp_answer *answer, uint64_t items)
{
    char said[2 * OTLP_SAID_MAX];
    uint64_t unsaid;

    __atomic_fetch_add(&s->exported, items - answer->rejected, __ATOMIC_RELAXED);
    if (s->away)
        log_info("%s are exported again", otlp_signal_name(s->signal));
    s->away = false;
    if (answer->rejected)
        otlp_queue_drop(s->queue, answer->rejected, OTLP_DROP_REJECTED);
    if ((answer->rejected || answer->said[0]) && log_rest_over(&s->rest_rejected, otlp_now(), &unsaid))
        log_warn("the collector has remarks on %s\trejected=%llu answer=%s more=%llu",
                 otlp_signal_name(s->signal), (unsigned long long)answer->rejected,
                 log_quote(said, sizeof(said), answer->said), (unsigned long long)unsaid);
}

/* ---- the thread ---- */

static uint64_t wall_now(void)
{
    struct timespec now;

    clock_gettime(CLOCK_REALTIME, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static uint64_t random_number(void)
{
    uint64_t n = 0;

    return getrandom(&n, sizeof(n), GRND_NONBLOCK) == sizeof(n) ? n : otlp_now();
}

/* Until it is taken or refused, or there is no time any more. */
static void deliver(struct otlp_sender *s, const struct otlp_body *body, uint64_t items)
{
    uint64_t until = otlp_now() + OTLP_RETRY_TOTAL;

    for (unsigned attempt = 1;; attempt++) {
        struct otlp_answer answer;
        uint64_t wait, asked;

        perform(s, body, items, &answer, &asked);
        if (answer.outcome == OTLP_TAKEN) {
            tell_taken(s, &answer, items);
            return;
        }
        tell_failure(s, &answer);
        if (answer.outcome == OTLP_REFUSED) {
            otlp_queue_drop(s->queue, items, OTLP_DROP_REFUSED);
            return;
        }
        wait = otlp_answer_wait(attempt, asked, random_number());
        if (otlp_now() + wait > until) {
            otlp_queue_drop(s->queue, items, OTLP_DROP_GAVE_UP);
            return;
        }
        otlp_queue_pause(s->queue, wait);
        if (!otlp_queue_left(s->queue)) {
            otlp_queue_drop(s->queue, items, OTLP_DROP_ENDED);
            return;
        }
    }
}

static void export(struct otlp_sender *s, struct otlp_batch *batch)
{
    uint64_t items = batch->items;
    struct otlp_body body;
    int r = otlp_body_make(s->config, batch, &body);

    otlp_batch_clear(batch);
    if (r < 0) {
        otlp_queue_drop(s->queue, items, OTLP_DROP_MEMORY);
        return;
    }
    deliver(s, &body, items);
    free(body.data);
}

/* As much as one request takes. */
static void split(struct otlp_batch *from, struct otlp_batch *ret)
{
    *ret = (struct otlp_batch){};
    do {
        struct otlp_record *r = from->first;

        from->first = r->next;
        otlp_batch_add(ret, r);
    } while (from->first && ret->bytes + from->first->len <= OTLP_BATCH_BYTES);
}

/* A batch of pages, of which there is one. */
static void export_page(struct otlp_sender *s, struct otlp_batch *batch)
{
    const struct otlp_record *page = batch->first;
    struct otlp_batch metrics = {}, part;
    int r = otlp_metrics_encode((const char *)page->data, page->len, s->started, page->time, &metrics);

    if (r < 0)
        otlp_queue_drop(s->queue, page->items, OTLP_DROP_MEMORY);
    otlp_batch_clear(batch);
    while (r == 0 && metrics.first) {
        split(&metrics, &part);
        export(s, &part);
    }
    otlp_batch_clear(&metrics);
}

static void *run(void *data)
{
    struct otlp_sender *s = data;
    struct otlp_batch batch;

    while (otlp_queue_take(s->queue, &batch)) {
        if (!otlp_queue_left(s->queue)) {
            otlp_queue_drop(s->queue, batch.items, OTLP_DROP_ENDED);
            otlp_batch_clear(&batch);
        } else if (s->signal == OTLP_METRICS) {
            export_page(s, &batch);
        } else {
            export(s, &batch);
        }
    }
    return NULL;
}

static void release(struct otlp_sender *s)
{
    curl_easy_cleanup(s->easy);
    curl_slist_free_all(s->headers);
    free(s);
}

/* Signals are the control thread's. */
static int start(struct otlp_sender *s)
{
    sigset_t all, before;
    int r;

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    r = -pthread_create(&s->thread, NULL, run, s);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return r;
}

int otlp_sender_new(const struct otlp_config *config, enum otlp_signal signal, struct otlp_queue *queue,
                    struct otlp_sender **ret)
{
    struct otlp_sender *s = calloc(1, sizeof(*s));
    int r;

    if (!s)
        return -ENOMEM;
    s->config = config;
    s->signal = signal;
    s->queue = queue;
    s->started = wall_now();
    r = set_up(s);
    if (r == 0)
        r = start(s);
    if (r < 0) {
        release(s);
        return r;
    }
    *ret = s;
    return 0;
}

void otlp_sender_free(struct otlp_sender **sender)
{
    struct otlp_sender *s = *sender;

    if (!s)
        return;
    pthread_join(s->thread, NULL);
    release(s);
    *sender = NULL;
}

void otlp_sender_count(const struct otlp_sender *s, struct otlp_sender_counts *ret)
{
    ret->exported = __atomic_load_n(&s->exported, __ATOMIC_RELAXED);
    ret->failures = __atomic_load_n(&s->failures, __ATOMIC_RELAXED);
}
