/* SPDX-License-Identifier: Apache-2.0 */
#define LOG_SCOPE "identity"
#include "proxy/identity/identity.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "lib/log.h"
#include "lib/reasons.h"
#include "lib/wall.h"
#include "proxy/identity/certificate_dump.h"
#include "proxy/identity/credentials.h"
#include "proxy/identity/identity_store.h"

#define CONCURRENT_MAX 8
#define BACKOFF_MIN    1000
#define BACKOFF_MAX    150000
#define PACE_MILLISECONDS \
    10000 /* a certificate that is past its half life at once must not be asked for again at once */
#define PACE_FLOOR     1000  /* one that ends before that is, but no faster than this */
#define REFUSALS_KNOWN 2     /* the first may be about a pod that the CA has not heard of yet */
#define ROOTS_SPREAD   20000 /* within which certificates are renewed after it has changed */
#define REALTIME_FLOOR 1000  /* a waiting connection may shorten a back-off to this, but no further */

static void start_next(struct identity_store *s);
static void retry(struct identity *i);

/* ±20 %, so that a node's certificates do not all come due together. */
static uint64_t jitter(uint64_t milliseconds)
{
    uint32_t r = 0;

    if (getrandom(&r, sizeof(r), GRND_NONBLOCK) < 0)
        r = 0x80000000u;
    return milliseconds * 4 / 5 + milliseconds * 2 / 5 * (r >> 16) / 65536;
}

static bool usable(const struct identity *i)
{
    return current_certificate_usable(&i->current);
}

static uint64_t time_left(const struct identity *i)
{
    return current_certificate_time_left(&i->current);
}

struct tls_context *identity_context(struct identity *i)
{
    return current_certificate_get(&i->current);
}

bool identity_has_failed(struct identity *i, char *text, size_t size)
{
    return current_certificate_has_failed(&i->current, text, size);
}

const char *identity_uri(const struct identity *i)
{
    return i->uri;
}

/* ---- the queue ---- */

static void enqueue(struct identity *i, enum identity_priority priority)
{
    i->priority = priority;
    i->waiting = true;
    list_del(&i->queue);
    list_add_tail(&i->store->queues[priority], &i->queue);
    start_next(i->store);
}

static void on_timer(struct loop_timer *timer)
{
    struct identity *i = container_of(timer, struct identity, timer);

    enqueue(i, usable(i) ? IDENTITY_BACKGROUND : i->priority);
}

/* Half of the life is over, by the local clock. Never sooner than the pace allows, but in time. */
static void schedule_refresh(struct identity *i)
{
    int64_t begin = i->certificate.not_before, half = begin + (i->current.context->not_after - begin) / 2,
            now = wall_seconds();
    uint64_t after = half > now ? (uint64_t)(half - now) * 1000 : 0, pace = PACE_MILLISECONDS * 5 / 4,
             left = time_left(i);

    pace = left / 2 < pace ? left / 2 : pace;
    pace = pace < PACE_FLOOR ? PACE_FLOOR : pace;
    if (after < PACE_MILLISECONDS && after < pace)
        after = jitter(pace);
    loop_timer_set(i->store->loop, &i->timer, after);
}

/* ---- one request ---- */

static void done(struct identity *i)
{
    EVP_PKEY_free(i->key);
    i->key = NULL;
    i->call = NULL;
    ca_client_done(&i->store->ca);
}

static void failed(struct identity *i, enum bruma_reason reason, const char *text)
{
    char failure[sizeof(i->current.failure)];
    bool has_failed;

    snprintf(i->error, sizeof(i->error), "%s", text);
    log_warn("no certificate\tidentity=\"%s\" reason=\"%s\" error=\"%s\" retry=%llums", i->uri,
             reason_name(reason), text, (unsigned long long)i->backoff);
    if (!i->failures++)
        i->failing_since = i->last_request;
    has_failed = (reason == BRUMA_REASON_CA_REFUSED && i->failures >= REFUSALS_KNOWN) ||
                 loop_now(i->store->loop) - i->failing_since >= i->store->config.patience;
    snprintf(failure, sizeof(failure), "%s: %s", reason_name(reason), text);
    current_certificate_failed(&i->current, has_failed, failure);
    retry(i);
    i->store->config.changed(i->store->config.data, i);
}

static void retry(struct identity *i)
{
    uint64_t after = jitter(i->backoff);

    i->backoff = i->backoff * 2 < BACKOFF_MAX ? i->backoff * 2 : BACKOFF_MAX;
    if (i->current.context && !time_left(i)) {
        current_certificate_set(&i->current, NULL);
        certificate_clear(&i->certificate);
    } else if (i->current.context) {
        /* what there is serves on, and there are some more tries before its end */
        uint64_t soon = time_left(i) / 2 < PACE_FLOOR ? PACE_FLOOR : time_left(i) / 2;

        after = soon < after ? soon : after;
    }
    loop_timer_set(i->store->loop, &i->timer, after);
}

static int install(struct identity *i, const uint8_t *message, size_t len, char *error, size_t error_size)
{
    struct certificate c;
    struct tls_context *context = NULL;
    const char *roots[1];
    int r = certificate_response(message, len, i->uri, i->key, &c, error, error_size);

    if (r < 0)
        return r;
    roots[0] = c.roots;
    r = tls_context_new(i->uri, i->key, (const char *const *)c.chain, c.chain_len, roots, 1, &context, error,
                        error_size);
    if (r < 0) {
        certificate_clear(&c);
        return r;
    }
    certificate_clear(&i->certificate);
    i->certificate = c;
    current_certificate_set(&i->current, context);
    return 0;
}

static void on_message(void *data, const uint8_t *message, size_t len)
{
    struct identity *i = data;
    char error[200];

    if (i->answered)
        return;
    i->answered = true;
    if (install(i, message, len, error, sizeof(error)) < 0) {
        snprintf(i->error, sizeof(i->error), "%s", error);
        return; /* on_end() tells it */
    }
    i->error[0] = '\0';
}

static void on_end(void *data, enum grpc_status status, const char *text)
{
    struct identity *i = data;
    struct identity_store *s = i->store;
    char error[200];

    done(i);
    if (status == GRPC_OK && i->answered && !i->error[0]) {
        i->backoff = BACKOFF_MIN;
        i->failures = 0;
        current_certificate_succeeded(&i->current);
        log_info("certificate received\tidentity=\"%s\" not_after=%lld", i->uri,
                 (long long)i->certificate.not_after);
        schedule_refresh(i);
        s->config.changed(s->config.data, i);
    } else if (status == GRPC_OK) {
        snprintf(error, sizeof(error), "%s", i->answered ? i->error : "the CA's answer is empty");
        failed(i, BRUMA_REASON_CA_REFUSED, error);
    } else {
        failed(i,
               status == GRPC_UNAVAILABLE || status == GRPC_DEADLINE_EXCEEDED ? BRUMA_REASON_CA_UNREACHABLE
                                                                              : BRUMA_REASON_CA_REFUSED,
               text);
    }
    start_next(s);
}

static const struct grpc_call_events call_events = {.message = on_message, .end = on_end};

static void start(struct identity *i)
{
    char text[128];
    int r;

    list_del(&i->queue);
    i->waiting = false;
    i->answered = false;
    i->error[0] = '\0';
    i->last_request = loop_now(i->store->loop);
    loop_timer_cancel(&i->timer);
    r = ca_client_request(&i->store->ca, i->uri, &call_events, i, &i->key, &i->call);
    if (r < 0)
        failed(i, BRUMA_REASON_CA_UNREACHABLE, strerror_r(-r, text, sizeof(text)));
}

static void start_next(struct identity_store *s)
{
    for (int p = 0; p < 3; p++) {
        while (!list_empty(&s->queues[p]) && s->ca.requests < CONCURRENT_MAX)
            start(list_first(&s->queues[p], struct identity, queue));
    }
}

/* ---- roots ---- */

static uint64_t up_to(uint64_t milliseconds)
{
    uint32_t r = 0;

    if (getrandom(&r, sizeof(r), GRND_NONBLOCK) < 0)
        r = 0x80000000u;
    return milliseconds * (r >> 16) / 65536;
}

/* Peers' roots come with the pod's own certificate, which is good for half a day more: without this, a node
 * would not know a new root until then. */
static void renew_all(void *data)
{
    struct identity_store *s = data;
    struct identity *i;

    log_info("the CA's roots have changed; certificates are renewed");
    list_for_each (i, &s->all, node) {
        if (i->current.context && !i->call && !i->waiting)
            loop_timer_set(s->loop, &i->timer, up_to(ROOTS_SPREAD));
    }
}

void identity_clock_set(struct identity_store *s)
{
    struct identity *i;

    list_for_each (i, &s->all, node) {
        if (i->call || i->waiting)
            continue;
        if (i->failures || !usable(i)) {
            i->backoff = BACKOFF_MIN;
            i->priority = usable(i) ? IDENTITY_BACKGROUND : IDENTITY_WARMUP;
            loop_timer_set(s->loop, &i->timer, 0);
        } else {
            schedule_refresh(i);
        }
    }
}

/* ---- the store ---- */

int identity_store_new(struct loop *loop, const struct identity_config *config, struct identity_store **ret)
{
    struct identity_store *s = calloc(1, sizeof(*s));
    int r;

    if (!s)
        return -ENOMEM;
    s->loop = loop;
    s->config = *config;
    r = ca_client_init(&s->ca, loop, &s->config);
    if (r < 0) {
        free(s);
        return r;
    }
    ca_roots_follow(&s->roots, loop, s->config.ca_roots, renew_all, s);
    list_init(&s->all);
    for (int i = 0; i < 3; i++)
        list_init(&s->queues[i]);
    *ret = s;
    return 0;
}

static void identity_free(struct identity *i)
{
    loop_timer_cancel(&i->timer);
    list_del(&i->queue);
    list_del(&i->node);
    if (i->call) {
        grpc_call_cancel(&i->call);
        done(i);
    }
    current_certificate_destroy(&i->current);
    certificate_clear(&i->certificate);
    free(i->uri);
    loop_free_later(i->store->loop, i);
}

void identity_store_free(struct identity_store **ptr)
{
    struct identity_store *s = *ptr;

    if (!s)
        return;
    while (!list_empty(&s->all))
        identity_free(list_first(&s->all, struct identity, node));
    ca_roots_clear(&s->roots);
    ca_client_close(&s->ca);
    free(s);
    *ptr = NULL;
}

static struct identity *find(struct identity_store *s, const char *uri)
{
    struct identity *i;

    list_for_each (i, &s->all, node) {
        if (!strcmp(i->uri, uri))
            return i;
    }
    return NULL;
}

/* Somebody else wants it too, perhaps more urgently. */
static void raise(struct identity *i, enum identity_priority priority)
{
    uint64_t since = loop_now(i->store->loop) - i->last_request;

    if (i->call || usable(i))
        return;
    if (i->waiting) {
        if (priority < i->priority)
            enqueue(i, priority);
    } else if (priority == IDENTITY_REALTIME && (i->failures || i->current.context)) {
        i->priority = priority;
        loop_timer_set(i->store->loop, &i->timer, since < REALTIME_FLOOR ? REALTIME_FLOOR - since : 0);
    }
}

int identity_get(struct identity_store *s, const char *uri, enum identity_priority priority,
                 struct identity **ret)
{
    struct identity *i = find(s, uri);

    if (i) {
        i->references++;
        raise(i, priority);
        *ret = i;
        return 0;
    }
    i = calloc(1, sizeof(*i));
    if (!i || !(i->uri = strdup(uri))) {
        free(i);
        return -ENOMEM;
    }
    i->references = 1;
    i->store = s;
    i->backoff = BACKOFF_MIN;
    current_certificate_init(&i->current);
    loop_timer_init(&i->timer, on_timer);
    list_init(&i->queue);
    list_add_tail(&s->all, &i->node);
    *ret = i;
    enqueue(i, priority);
    return 0;
}

void identity_put(struct identity *i)
{
    if (i && --i->references == 0) {
        struct identity_store *s = i->store;

        identity_free(i);
        start_next(s);
    }
}

static void put_posted(void *data)
{
    identity_put(data);
}

void identity_put_later(void *data)
{
    struct identity *i = data;

    if (loop_post(i->store->loop, put_posted, i) < 0)
        log_error("out of memory: the certificate of %s is not freed", i->uri);
}

int identity_each(struct identity_store *s, int (*fn)(void *data, const char *uri), void *data)
{
    struct identity *i;
    int r = 0;

    list_for_each (i, &s->all, node) {
        r = fn(data, i->uri);
        if (r < 0)
            break;
    }
    return r;
}

cJSON *identity_dump(struct identity_store *s, const char *uri)
{
    struct identity *i = find(s, uri);

    return i ? certificate_dump(i->uri, usable(i) ? &i->certificate : NULL, i->error) : NULL;
}
