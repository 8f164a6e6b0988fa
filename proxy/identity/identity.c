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
#include "proxy/identity/identity_store.h"

#define BACKOFF_MIN 1000
#define BACKOFF_MAX 150000
#define PACE_MILLISECONDS \
    10000 /* a certificate that is past its half life at once must not be asked for again at once */
#define PACE_FLOOR     1000 /* one that ends before that is, but no faster than this */
#define REFUSALS_KNOWN 2    /* the first may be about a pod that the CA has not heard of yet */
#define REALTIME_FLOOR 1000 /* a waiting connection may shorten a back-off to this, but no further */

static void start_next(struct identity_source *source);
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
    list_add_tail(&i->source->queues[priority], &i->queue);
    start_next(i->source);
}

static void on_timer(struct loop_timer *timer)
{
    struct identity *i = container_of(timer, struct identity, timer);

    enqueue(i, usable(i) ? IDENTITY_BACKGROUND : i->priority);
}

/* Half of the life is over, by the local clock. Never sooner than the pace allows, but in time. */
static void schedule_refresh(struct identity *i)
{
    int64_t begin = i->issued.certificate.not_before,
            half = begin + (i->current.context->not_after - begin) / 2, now = wall_seconds();
    uint64_t after = half > now ? (uint64_t)(half - now) * 1000 : 0, pace = PACE_MILLISECONDS * 5 / 4,
             left = time_left(i);

    if (i->source->type->pushes) { /* only to say that no other has come */
        loop_timer_set(i->store->loop, &i->timer, left < PACE_FLOOR ? PACE_FLOOR : left);
        return;
    }
    pace = left / 2 < pace ? left / 2 : pace;
    pace = pace < PACE_FLOOR ? PACE_FLOOR : pace;
    if (after < PACE_MILLISECONDS && after < pace)
        after = jitter(pace);
    loop_timer_set(i->store->loop, &i->timer, after);
}

/* ---- one request ---- */

void issued_clear(struct issued *issued)
{
    certificate_clear(&issued->certificate);
    EVP_PKEY_free(issued->key);
    bundles_unref(issued->federated);
    *issued = (struct issued){};
}

static void drop(struct identity *i)
{
    current_certificate_set(&i->current, NULL);
    issued_clear(&i->issued);
}

static void retry(struct identity *i)
{
    uint64_t after = jitter(i->backoff);

    i->backoff = i->backoff * 2 < BACKOFF_MAX ? i->backoff * 2 : BACKOFF_MAX;
    if (i->current.context && !time_left(i)) {
        drop(i);
    } else if (i->current.context) {
        /* what there is serves on, and there are some more tries before its end */
        uint64_t soon = time_left(i) / 2 < PACE_FLOOR ? PACE_FLOOR : time_left(i) / 2;

        after = soon < after ? soon : after;
    }
    loop_timer_set(i->store->loop, &i->timer, after);
}

/* The request has been answered, if there was one. */
static void answered(struct identity *i)
{
    if (!i->asking)
        return;
    i->asking = false;
    i->source->requests--;
    start_next(i->source);
}

/* A no that is meant so, if it comes again. */
static bool is_refusal(enum bruma_reason reason)
{
    return reason == BRUMA_REASON_CA_REFUSED || reason == BRUMA_REASON_SPIRE_REFUSED;
}

static void note_failure(struct identity *i, enum bruma_reason reason, const char *text, bool is_final)
{
    char failure[sizeof(i->current.failure)];
    bool has_failed;

    snprintf(i->error, sizeof(i->error), "%s", text);
    log_warn("no certificate\tidentity=\"%s\" source=%s reason=\"%s\" error=\"%s\" retry=%llums", i->uri,
             i->source->type->name, reason_name(reason), text, (unsigned long long)i->backoff);
    if (!i->failures++)
        i->failing_since = i->asking ? i->last_request : loop_now(i->store->loop);
    i->source->failures++;
    has_failed = is_final || (is_refusal(reason) && i->failures >= REFUSALS_KNOWN) ||
                 loop_now(i->store->loop) - i->failing_since >= i->store->config.patience;
    snprintf(failure, sizeof(failure), "%s: %s", reason_name(reason), text);
    current_certificate_failed(&i->current, has_failed, failure);
}

void identity_failed(struct identity *i, enum bruma_reason reason, const char *text)
{
    note_failure(i, reason, text, false);
    retry(i);
    i->store->config.changed(i->store->config.data, i);
    answered(i);
}

void identity_withdrawn(struct identity *i, enum bruma_reason reason, const char *text)
{
    drop(i);
    note_failure(i, reason, text, true);
    retry(i);
    i->store->config.changed(i->store->config.data, i);
    answered(i);
}

/* What is said by the source itself is newer than what is in files. */
static struct bundles *federated(const struct identity *i)
{
    struct bundles *all = bundles_new();

    if (all &&
        (bundles_fill(all, i->issued.federated) < 0 || bundles_fill(all, i->store->bundles.bundles) < 0)) {
        bundles_unref(all);
        all = NULL;
    }
    return all;
}

/* Of what has been issued. */
static int make_context(struct identity *i, char *error, size_t error_size)
{
    const struct certificate *c = &i->issued.certificate;
    const char *roots[] = {c->roots};
    struct tls_context *context = NULL;
    struct bundles *others = federated(i);
    int r = -ENOMEM;

    snprintf(error, error_size, "out of memory");
    if (others)
        r = tls_context_new(i->uri, i->issued.key, (const char *const *)c->chain, c->chain_len, roots, 1,
                            &context, error, error_size);
    if (r == 0)
        r = tls_context_federate(context, others, i->source->type->own_domain_only);
    if (r == 0)
        current_certificate_set(&i->current, context);
    else
        tls_context_unref(context);
    bundles_unref(others);
    return r;
}

void identity_issued(struct identity *i, struct issued *issued)
{
    struct issued last = i->issued;
    char error[200];

    i->issued = *issued;
    *issued = (struct issued){};
    if (make_context(i, error, sizeof(error)) < 0) {
        issued_clear(&i->issued);
        i->issued = last;
        identity_failed(i, i->source->type->refused, error);
        return;
    }
    issued_clear(&last);
    i->error[0] = '\0';
    i->backoff = BACKOFF_MIN;
    i->failures = 0;
    current_certificate_succeeded(&i->current);
    log_info("certificate received\tidentity=\"%s\" source=%s not_after=%lld", i->uri, i->source->type->name,
             (long long)i->issued.certificate.not_after);
    schedule_refresh(i);
    i->store->config.changed(i->store->config.data, i);
    answered(i);
}

static void start(struct identity *i)
{
    struct identity_source *source = i->source;
    char text[128];
    int r;

    list_del(&i->queue);
    i->waiting = false;
    i->asking = true;
    source->requests++;
    i->last_request = loop_now(i->store->loop);
    loop_timer_cancel(&i->timer);
    r = source->type->request(source, i);
    if (r < 0)
        identity_failed(i, source->type->unreachable, strerror_r(-r, text, sizeof(text)));
}

/* An answer may come at once, and lead here again: then it is the outer one that goes on. */
static void start_next(struct identity_source *source)
{
    unsigned most = source->type->concurrent;

    if (source->starting)
        return;
    source->starting = true;
    for (int p = 0; p < 3; p++) {
        while (!list_empty(&source->queues[p]) && (!most || source->requests < most))
            start(list_first(&source->queues[p], struct identity, queue));
    }
    source->starting = false;
}

/* ---- what changes for many ---- */

static uint64_t up_to(uint64_t milliseconds)
{
    uint32_t r = 0;

    if (getrandom(&r, sizeof(r), GRND_NONBLOCK) < 0)
        r = 0x80000000u;
    return milliseconds * (r >> 16) / 65536;
}

void identity_source_renew(struct identity_source *source, uint64_t spread)
{
    struct identity *i;

    list_for_each (i, &source->store->all, node) {
        if (i->source == source && i->current.context && !i->asking && !i->waiting)
            loop_timer_set(source->store->loop, &i->timer, up_to(spread));
    }
}

void identity_bundles_changed(struct identity *i)
{
    char error[200];

    if (!i->current.context)
        return;
    if (make_context(i, error, sizeof(error)) < 0)
        log_error("federated bundles are not in force\tidentity=\"%s\" error=\"%s\"", i->uri, error);
    else
        i->store->config.changed(i->store->config.data, i);
}

void identity_clock_set(struct identity_store *s)
{
    struct identity *i;

    list_for_each (i, &s->all, node) {
        if (i->asking || i->waiting)
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

/* ---- who wants it ---- */

void identity_free(struct identity *i)
{
    loop_timer_cancel(&i->timer);
    list_del(&i->queue);
    list_del(&i->node);
    i->source->type->forget(i->source, i);
    if (i->asking)
        i->source->requests--;
    current_certificate_destroy(&i->current);
    issued_clear(&i->issued);
    free(i->uri);
    loop_free_later(i->store->loop, i);
}

struct identity *identity_find(struct identity_store *s, const char *uri)
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

    if (i->asking || usable(i))
        return;
    if (i->waiting) {
        if (priority < i->priority)
            enqueue(i, priority);
    } else if (priority == IDENTITY_REALTIME && (i->failures || i->current.context)) {
        i->priority = priority;
        loop_timer_set(i->store->loop, &i->timer, since < REALTIME_FLOOR ? REALTIME_FLOOR - since : 0);
    }
}

static struct identity_source *source_for(const struct identity_store *s, const char *uri)
{
    struct spiffe parts = {.trust_domain = ""};

    (void)spiffe_parse(uri, strlen(uri), &parts);
    return s->sources[source_choice_of(&s->config.sources, parts.trust_domain, parts.trust_domain_len)];
}

int identity_get(struct identity_store *s, const char *uri, enum identity_priority priority,
                 struct identity **ret)
{
    struct identity *i = identity_find(s, uri);

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
    i->source = source_for(s, uri);
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
        struct identity_source *source = i->source;

        identity_free(i);
        start_next(source);
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
