/* SPDX-License-Identifier: Apache-2.0 */
#define LOG_SCOPE "resolve"
#include "proxy/resolve/resolver.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "lib/log.h"
#include "lib/metrics_text.h"
#include "lib/reasons.h"
#include "proxy/resolve/name_cache.h"

struct resolver {
    struct resolver_config config;
    pthread_mutex_t lock; /* of the cache, queries_len and the counters */
    struct name_cache *cache;
    unsigned long queries_len; /* begun, or about to be */
    uint64_t asked, failed;
    struct list asks; /* struct ask; control thread */
};

/* A query, from the worker that wants it on. */
struct ask {
    struct list node; /* in resolver.asks; control thread */
    struct resolver *resolver;
    struct name_entry *entry; /* is asking, and so stays */
    struct name_query *query; /* control thread */
};

static void fail(struct name_answer *a, enum bruma_reason reason, const char *detail)
{
    *a = (struct name_answer){.reason = reason};
    snprintf(a->detail, sizeof(a->detail), "%s", detail);
}

static void log_answer(const char *name, const struct name_answer *a, uint32_t ttl)
{
    char text[ADDR_TEXT_LEN];

    if (a->reason != BRUMA_REASON_NONE)
        log_debug("a hostname is not resolved\tname=\"%s\" reason=%s error=\"%s\"", name,
                  reason_name(a->reason), a->detail);
    else
        log_debug("a hostname is resolved\tname=\"%s\" addresses=%u first=%s ttl=%u", name, a->len,
                  addr_format(&a->addresses[0], text), ttl);
}

static void finish(struct ask *ask, const struct name_answer *a, uint32_t ttl)
{
    struct resolver *r = ask->resolver;

    log_answer(ask->entry->name, a, ttl);
    pthread_mutex_lock(&r->lock);
    name_entry_answer(ask->entry, a, ttl, loop_now(r->config.loop));
    r->queries_len--;
    r->failed += a->reason != BRUMA_REASON_NONE;
    pthread_mutex_unlock(&r->lock);
    name_query_free(&ask->query);
    list_del(&ask->node);
    free(ask);
    r->config.changed(r->config.data);
}

static void on_done(void *data, const struct name_answer *a, uint32_t ttl)
{
    finish(data, a, ttl);
}

static void begin(void *data)
{
    struct ask *ask = data;
    struct resolver *r = ask->resolver;
    struct name_answer a;
    int e;

    list_add_tail(&r->asks, &ask->node);
    /* the name stays while it is asking, and nobody else changes it */
    e = name_query_new(r->config.loop, &r->config.query, ask->entry->name, on_done, ask, &ask->query);
    if (e == 0)
        return;
    if (e == -ENOMEM)
        fail(&a, BRUMA_REASON_OUT_OF_RESOURCES, "no memory for a DNS query");
    else
        fail(&a, BRUMA_REASON_NAME_SERVER_FAILED, "a DNS query cannot be begun");
    finish(ask, &a, 0);
}

/* Locked. True: it will be told of. False: ret says why not. */
static bool ask_for(struct resolver *r, struct name_entry *e, struct name_answer *ret)
{
    struct ask *ask;

    if (r->queries_len >= r->config.max_queries) {
        fail(ret, BRUMA_REASON_NAME_QUERIES, "too many hostnames are being resolved");
        return false;
    }
    ask = calloc(1, sizeof(*ask));
    if (ask) {
        *ask = (struct ask){.resolver = r, .entry = e};
        list_init(&ask->node);
    }
    if (!ask || loop_post(r->config.loop, begin, ask) < 0) {
        free(ask);
        fail(ret, BRUMA_REASON_OUT_OF_RESOURCES, "no memory for a DNS query");
        return false;
    }
    e->asking = true;
    r->queries_len++;
    r->asked++;
    return true;
}

/* A name that is loopback whatever a server says (RFC 6761); c-ares 1.18 leaks memory where it is asked. */
static bool is_localhost(const char *name)
{
    static const char last[] = "localhost";
    size_t len = strlen(name), start = len - (sizeof(last) - 1);

    if (len < sizeof(last) - 1 || strcasecmp(name + start, last) != 0)
        return false;
    return start == 0 || name[start - 1] == '.';
}

bool resolver_look(struct resolver *r, const char *name, uint64_t now, struct name_answer *ret)
{
    struct name_entry *e;
    bool known = true;

    if (strlen(name) > NAME_MAX_LEN) {
        fail(ret, BRUMA_REASON_NAME_NOT_FOUND, "it is longer than a hostname can be");
        return true;
    }
    if (is_localhost(name)) {
        fail(ret, BRUMA_REASON_NAME_ADDRESS_REFUSED, "it is loopback");
        return true;
    }
    pthread_mutex_lock(&r->lock);
    e = name_cache_get(r->cache, name);
    if (!e)
        fail(ret, BRUMA_REASON_OUT_OF_RESOURCES, "no memory for a hostname");
    else if (e->asking)
        known = false;
    else if (name_entry_good(e, now))
        *ret = e->answer;
    else
        known = !ask_for(r, e, ret);
    pthread_mutex_unlock(&r->lock);
    return known;
}

bool resolver_peek(struct resolver *r, const char *name, uint64_t now, struct name_answer *ret,
                   uint64_t *ret_left)
{
    const struct name_entry *e;
    bool good;

    pthread_mutex_lock(&r->lock);
    e = name_cache_peek(r->cache, name);
    good = e && name_entry_good(e, now);
    if (good) {
        *ret = e->answer;
        *ret_left = e->until - now;
    }
    pthread_mutex_unlock(&r->lock);
    return good;
}

int resolver_new(const struct resolver_config *config, struct resolver **ret)
{
    struct resolver *r;
    size_t names;
    int e = name_query_library_init();

    if (e < 0)
        return e;
    if (!name_query_servers_good(config->query.servers))
        return -EINVAL;
    r = calloc(1, sizeof(*r));
    if (!r)
        return -ENOMEM;
    r->config = *config;
    list_init(&r->asks);
    /* an entry that is asking keeps its place, so there are more places than queries */
    names = config->max_names > config->max_queries ? config->max_names : config->max_queries + 1;
    e = name_cache_new(names, &r->cache);
    if (e < 0) {
        free(r);
        return e;
    }
    pthread_mutex_init(&r->lock, NULL);
    *ret = r;
    return 0;
}

void resolver_free(struct resolver **resolver)
{
    struct resolver *r = *resolver;

    if (!r)
        return;
    while (!list_empty(&r->asks)) {
        struct ask *ask = list_first(&r->asks, struct ask, node);

        name_query_free(&ask->query);
        list_del(&ask->node);
        free(ask);
    }
    name_cache_free(&r->cache);
    pthread_mutex_destroy(&r->lock);
    free(r);
    *resolver = NULL;
}

void resolver_write_metrics(struct resolver *r, FILE *out)
{
    uint64_t asked, failed, replaced;
    size_t len;

    pthread_mutex_lock(&r->lock);
    asked = r->asked;
    failed = r->failed;
    replaced = name_cache_replaced(r->cache);
    len = name_cache_len(r->cache);
    pthread_mutex_unlock(&r->lock);
    metric_counter(out, "bruma_name_queries", "Hostnames of workloads that DNS servers were asked for.",
                   asked);
    metric_counter(out, "bruma_name_query_failures", "Those of them that brought no address.", failed);
    metric_counter(out, "bruma_names_replaced",
                   "Hostnames that were forgotten because there were too many (max-names).", replaced);
    metric_gauge(out, "bruma_names", "Hostnames that are remembered.", (uint64_t)len);
}
