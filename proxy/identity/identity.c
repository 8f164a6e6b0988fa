/* SPDX-License-Identifier: Apache-2.0 */
#define LOG_SCOPE "identity"
#include "proxy/identity/identity.h"

#include <errno.h>
#include <openssl/pem.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "lib/log.h"
#include "lib/reasons.h"
#include "lib/wall.h"
#include "proxy/identity/certificate.h"
#include "proxy/identity/certificate_dump.h"
#include "proxy/identity/credentials.h"

#define METHOD            "/istio.v1.auth.IstioCertificateService/CreateCertificate"
#define CONCURRENT_MAX    8
#define CALL_MILLISECONDS 10000
#define BACKOFF_MIN       1000
#define BACKOFF_MAX       150000
#define PACE_MILLISECONDS \
    10000 /* a certificate that is past its half life at once must not be asked for again at once */
#define PACE_FLOOR     1000  /* one that ends before that is, but no faster than this */
#define REFUSALS_KNOWN 2     /* the first may be about a pod that the CA has not heard of yet */
#define ROOTS_CHECK    5000  /* how often the file of the CA's roots is looked at */
#define ROOTS_SPREAD   20000 /* within which certificates are renewed after it has changed */
#define CHANNEL_IDLE   30000 /* then it is closed: the next one reads the roots again */
#define REALTIME_FLOOR 1000  /* a waiting connection may shorten a back-off to this, but no further */

struct identity {
    struct list node;  /* in store.all */
    struct list queue; /* in store.queues[priority], while it waits for its turn */
    struct identity_store *store;
    int references;
    char *uri;
    enum identity_priority priority;
    struct loop_timer timer; /* refresh or retry */
    uint64_t backoff, last_request;
    uint64_t failing_since; /* loop time of the first request in a row that failed */
    unsigned failures;      /* in a row */
    bool waiting;
    struct grpc_call *call; /* under way */
    EVP_PKEY *key;          /* of that call */
    bool answered;
    char error[200]; /* of the last failure, "" after a success */
    struct certificate certificate;
    pthread_mutex_t lock;        /* guards what follows, which other threads read */
    struct tls_context *context; /* NULL: none */
    int64_t received_at;         /* wall seconds; of the context */
    bool has_failed;             /* waiting for the CA will not help */
    char failure[240];           /* of the last failure by its name, "" after a success */
};

struct identity_store {
    struct loop *loop;
    struct identity_config config;
    struct server_address address;
    struct grpc_channel *channel;
    struct loop_timer idle, roots_check;
    char *roots; /* as they were read last; NULL: not yet, or the system's */
    struct list all, queues[3];
    unsigned running;
};

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

/* A clock that is behind the CA's does no harm: peers go by theirs. One that was set back since does: theirs
 * may be the same. */
static bool out_of_date(const struct tls_context *c, int64_t received_at)
{
    int64_t now = wall_seconds();

    return now >= c->not_after || (now < c->not_before && now < received_at);
}

/* Control thread, which alone writes what is looked at. */
static bool usable(const struct identity *i)
{
    return i->context && !out_of_date(i->context, i->received_at);
}

struct tls_context *identity_context(struct identity *i)
{
    struct tls_context *context = NULL;

    pthread_mutex_lock(&i->lock);
    if (usable(i))
        context = tls_context_ref(i->context);
    pthread_mutex_unlock(&i->lock);
    return context;
}

bool identity_has_failed(struct identity *i, char *text, size_t size)
{
    bool failed;

    pthread_mutex_lock(&i->lock);
    snprintf(text, size, "%s", i->failure);
    failed = i->has_failed && !usable(i);
    pthread_mutex_unlock(&i->lock);
    return failed;
}

const char *identity_uri(const struct identity *i)
{
    return i->uri;
}

static void publish(struct identity *i, struct tls_context *context)
{
    struct tls_context *old;

    pthread_mutex_lock(&i->lock);
    old = i->context;
    i->context = context;
    i->received_at = wall_seconds();
    pthread_mutex_unlock(&i->lock);
    tls_context_unref(old);
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

/* Of what is held: milliseconds to its end, 0 if that has come. */
static uint64_t time_left(const struct identity *i)
{
    int64_t left = i->context->not_after - wall_seconds();

    return left <= 0 ? 0 : left > INT64_MAX / 1000 ? INT64_MAX : (uint64_t)left * 1000;
}

/* Half of the life is over, by the local clock. Never sooner than the pace allows, but in time. */
static void schedule_refresh(struct identity *i)
{
    int64_t begin = i->certificate.not_before, half = begin + (i->context->not_after - begin) / 2,
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
    if (--i->store->running == 0)
        loop_timer_set(i->store->loop, &i->store->idle, CHANNEL_IDLE);
}

static void failed(struct identity *i, enum bruma_reason reason, const char *text)
{
    snprintf(i->error, sizeof(i->error), "%s", text);
    log_warn("no certificate\tidentity=\"%s\" reason=\"%s\" error=\"%s\" retry=%llums", i->uri,
             reason_name(reason), text, (unsigned long long)i->backoff);
    if (!i->failures++)
        i->failing_since = i->last_request;
    pthread_mutex_lock(&i->lock);
    snprintf(i->failure, sizeof(i->failure), "%s: %s", reason_name(reason), text);
    i->has_failed = (reason == BRUMA_REASON_CA_REFUSED && i->failures >= REFUSALS_KNOWN) ||
                    loop_now(i->store->loop) - i->failing_since >= i->store->config.patience;
    pthread_mutex_unlock(&i->lock);
    retry(i);
    i->store->config.changed(i->store->config.data, i);
}

static void retry(struct identity *i)
{
    uint64_t after = jitter(i->backoff);

    i->backoff = i->backoff * 2 < BACKOFF_MAX ? i->backoff * 2 : BACKOFF_MAX;
    if (i->context && !time_left(i)) {
        publish(i, NULL);
        certificate_clear(&i->certificate);
    } else if (i->context) {
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
    publish(i, context);
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
        pthread_mutex_lock(&i->lock);
        i->has_failed = false;
        i->failure[0] = '\0';
        pthread_mutex_unlock(&i->lock);
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

static void on_down(void *data, const char *why)
{
    struct identity_store *s = data;

    (void)why; /* its calls have ended with that text */
    grpc_channel_close(&s->channel);
}

static void on_idle(struct loop_timer *timer)
{
    struct identity_store *s = container_of(timer, struct identity_store, idle);

    if (!s->running)
        grpc_channel_close(&s->channel);
}

/* Roots are read again for each connection, the token for each call. */
static int open_channel(struct identity_store *s)
{
    struct grpc_channel_config config = {
        .host = s->address.host,
        .port = s->address.port,
        .alternate_host = s->config.alternate_host,
        .plaintext = s->address.plaintext,
    };
    char *roots = NULL;
    int r;

    if (s->channel)
        return 0;
    r = config.plaintext ? 0 : roots_load(s->config.ca_roots, &roots);
    config.roots_pem = roots;
    if (r == 0)
        r = grpc_channel_open(s->loop, &config, on_down, s, &s->channel);
    free(roots);
    return r;
}

static int begin(struct identity *i)
{
    static const struct grpc_call_events events = {.message = on_message, .end = on_end};
    struct identity_store *s = i->store;
    struct credential_headers headers = {};
    struct wire_writer message = {};
    int r = open_channel(s);

    if (r < 0)
        return r;
    r = credential_headers_load(s->config.auth_token, s->config.token_file, s->config.cluster_id,
                                "CA_HEADER_", &headers);
    if (r == 0)
        r = certificate_request(i->uri, s->config.ttl_seconds, &i->key, &message);
    if (r == 0)
        r = grpc_call_open(s->channel, METHOD, headers.headers, headers.len, CALL_MILLISECONDS, &events, i,
                           &i->call);
    if (r == 0)
        r = grpc_call_send(i->call, message.data, message.len, true);
    credential_headers_free(&headers);
    wire_writer_clear(&message);
    return r;
}

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
    i->store->running++;
    r = begin(i);
    if (r < 0) {
        grpc_call_cancel(&i->call);
        done(i);
        failed(i, BRUMA_REASON_CA_UNREACHABLE, strerror_r(-r, text, sizeof(text)));
    }
}

static void start_next(struct identity_store *s)
{
    for (int p = 0; p < 3; p++) {
        while (!list_empty(&s->queues[p]) && s->running < CONCURRENT_MAX)
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
static void renew_all(struct identity_store *s)
{
    struct identity *i;

    log_info("the CA's roots have changed; certificates are renewed");
    list_for_each (i, &s->all, node) {
        if (i->context && !i->call && !i->waiting)
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

static void on_roots_check(struct loop_timer *timer)
{
    struct identity_store *s = container_of(timer, struct identity_store, roots_check);
    char *roots = NULL;

    loop_timer_set(s->loop, timer, ROOTS_CHECK);
    if (roots_load(s->config.ca_roots, &roots) < 0 || !roots)
        return; /* whoever needs them says so */
    if (s->roots && strcmp(s->roots, roots) != 0)
        renew_all(s);
    free(s->roots);
    s->roots = roots;
}

/* ---- the store ---- */

int identity_store_new(struct loop *loop, const struct identity_config *config, struct identity_store **ret)
{
    struct identity_store *s = calloc(1, sizeof(*s));
    int r = s ? server_address_parse(config->ca_address, &s->address) : -ENOMEM;

    if (r < 0) {
        free(s);
        return r;
    }
    s->loop = loop;
    s->config = *config;
    loop_timer_init(&s->idle, on_idle);
    loop_timer_init(&s->roots_check, on_roots_check);
    loop_timer_set(loop, &s->roots_check, 0);
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
    publish(i, NULL);
    certificate_clear(&i->certificate);
    pthread_mutex_destroy(&i->lock);
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
    loop_timer_cancel(&s->idle);
    loop_timer_cancel(&s->roots_check);
    free(s->roots);
    grpc_channel_close(&s->channel);
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
    } else if (priority == IDENTITY_REALTIME && (i->failures || i->context)) {
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
    pthread_mutex_init(&i->lock, NULL);
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
