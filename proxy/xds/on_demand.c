/* SPDX-License-Identifier: Apache-2.0 */
#define LOG_SCOPE "xds"
#include "proxy/xds/on_demand.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "lib/list.h"
#include "lib/log.h"
#include "lib/metrics_text.h"
#include "proxy/state/hash.h"
#include "proxy/wire/wire.h"

/* Fields of DeltaDiscoveryResponse and Resource. */
enum { RESPONSE_RESOURCE = 2, RESPONSE_REMOVED = 6, RESOURCE_NAME = 3, RESOURCE_ALIAS = 4 };

enum key_state { KEY_NEW, KEY_ASKED, KEY_ANSWERED };

struct key {
    struct list slot; /* in the table */
    struct list use;  /* in the table's list, the longest unused first; or in that of those that are left */
    enum key_state state;
    bool told;      /* the control plane knows that we want it: it has to be left before it is asked again */
    uint64_t used;  /* loop_now() */
    bool again;     /* answered, and to be asked for again all the same */
    uint64_t until; /* loop_now(): that there is none of it is good for so long */
    uint64_t fresh; /* loop_now(): what there is of it is as it is, or its answer may come, for so long */
    char name[];
};

struct on_demand {
    struct on_demand_config config;
    pthread_mutex_t lock; /* of all that follows but wanted and its data */
    bool posted, away;
    size_t len, mask;
    uint64_t asked, dropped;
    struct list use;  /* struct key */
    struct list left; /* struct key: none of the table's any more, and the control plane is to be told */
    void (*wanted)(void *data);
    void *wanted_data;
    struct list slots[];
};

int on_demand_new(const struct on_demand_config *config, struct on_demand **ret)
{
    struct on_demand *d;
    size_t slots = 64;

    while (slots < config->max && slots < (1u << 20))
        slots *= 2;
    d = calloc(1, sizeof(*d) + slots * sizeof(d->slots[0]));
    if (!d)
        return -ENOMEM;
    d->config = *config;
    d->away = true;
    d->mask = slots - 1;
    list_init(&d->use);
    list_init(&d->left);
    for (size_t i = 0; i < slots; i++)
        list_init(&d->slots[i]);
    pthread_mutex_init(&d->lock, NULL);
    *ret = d;
    return 0;
}

static void free_keys(struct list *keys)
{
    while (!list_empty(keys)) {
        struct key *k = list_first(keys, struct key, use);

        list_del(&k->use);
        free(k);
    }
}

void on_demand_free(struct on_demand **on_demand)
{
    struct on_demand *d = *on_demand;

    if (!d)
        return;
    free_keys(&d->use);
    free_keys(&d->left);
    pthread_mutex_destroy(&d->lock);
    free(d);
    *on_demand = NULL;
}

/* ---- the table; locked ---- */

static struct key *find(struct on_demand *d, const char *name)
{
    struct key *k;

    list_for_each (k, &d->slots[hash_text(name) & d->mask], slot) {
        if (!strcmp(k->name, name))
            return k;
    }
    return NULL;
}

static void leave(struct on_demand *d, struct key *k)
{
    list_del(&k->slot);
    list_del(&k->use);
    d->len--;
    if (k->told)
        list_add_tail(&d->left, &k->use);
    else
        free(k);
}

/* False: all wait for their answers. */
static bool make_room(struct on_demand *d)
{
    struct key *k;

    if (d->len < d->config.max)
        return true;
    list_for_each (k, &d->use, use) {
        if (k->state != KEY_ANSWERED)
            continue;
        leave(d, k);
        d->dropped++;
        return true;
    }
    return false;
}

static struct key *add(struct on_demand *d, const char *name)
{
    size_t len = strlen(name);
    struct key *k;

    if (!make_room(d))
        return NULL;
    k = calloc(1, sizeof(*k) + len + 1);
    if (!k)
        return NULL;
    memcpy(k->name, name, len + 1);
    list_add_tail(&d->slots[hash_text(name) & d->mask], &k->slot);
    list_add_tail(&d->use, &k->use);
    d->len++;
    return k;
}

/* ---- any thread ---- */

static void on_posted(void *data)
{
    struct on_demand *d = data;

    pthread_mutex_lock(&d->lock);
    d->posted = false;
    pthread_mutex_unlock(&d->lock);
    if (d->wanted)
        d->wanted(d->wanted_data);
}

/* Locked. Without memory for it the key is told of with the next one. */
static void post(struct on_demand *d)
{
    if (!d->posted && loop_post(d->config.loop, on_posted, d) == 0)
        d->posted = true;
}

enum on_demand_answer on_demand_look(struct on_demand *d, const char *name, bool here, uint64_t now)
{
    enum on_demand_answer answer = ON_DEMAND_ASKED;
    struct key *k;

    pthread_mutex_lock(&d->lock);
    k = find(d, name);
    if (!k)
        k = add(d, name);
    if (!k) {
        answer = ON_DEMAND_FULL;
    } else {
        k->used = now;
        list_del(&k->use);
        list_add_tail(&d->use, &k->use);
        if (k->state == KEY_ANSWERED && (here || now < k->until || d->away))
            answer = ON_DEMAND_ANSWERED;
        else if (k->state == KEY_ANSWERED)
            k->state = KEY_NEW;
        else if (d->away)
            answer = ON_DEMAND_AWAY;
        else if (k->state == KEY_ASKED && now >= k->fresh)
            k->state = KEY_NEW; /* the question or its answer was lost: without memory for it, for one */
        k->again |= answer == ON_DEMAND_ANSWERED && here && now >= k->fresh;
        if (k->state == KEY_NEW || k->again)
            post(d);
    }
    pthread_mutex_unlock(&d->lock);
    return answer;
}

/* ---- control thread ---- */

void on_demand_serve(struct on_demand *d, void (*wanted)(void *data), void *data)
{
    d->wanted = wanted;
    d->wanted_data = data;
}

bool on_demand_wants(struct on_demand *d, const char *name)
{
    bool wants;

    pthread_mutex_lock(&d->lock);
    wants = find(d, name) != NULL;
    pthread_mutex_unlock(&d->lock);
    return wants;
}

void on_demand_take(struct on_demand *d, void (*left)(void *data, const char *key),
                    void (*ask)(void *data, const char *key, bool told), void *data)
{
    struct key *k;

    pthread_mutex_lock(&d->lock);
    while (!list_empty(&d->left)) {
        k = list_first(&d->left, struct key, use);
        if (!find(d, k->name))
            left(data, k->name);
        else
            find(d, k->name)->told = true; /* wanted again before the control plane has heard */
        list_del(&k->use);
        free(k);
    }
    list_for_each (k, &d->use, use) {
        if (k->state != KEY_NEW && !k->again)
            continue;
        ask(data, k->name, k->told);
        if (k->state == KEY_NEW)
            k->state = KEY_ASKED;
        k->told = true;
        k->again = false;
        k->fresh = loop_now(d->config.loop) + d->config.fresh;
        d->asked++;
    }
    pthread_mutex_unlock(&d->lock);
}

void on_demand_begin(struct on_demand *d, bool (*each)(void *data, const char *key), void *data)
{
    struct key *k;

    pthread_mutex_lock(&d->lock);
    d->away = false;
    free_keys(&d->left); /* the new stream has not heard of them */
    list_for_each (k, &d->use, use) {
        k->told = each(data, k->name);
        k->fresh = loop_now(d->config.loop) + d->config.fresh;
        if (k->state == KEY_NEW && k->told) {
            k->state = KEY_ASKED;
            d->asked++;
        } else if (!k->told) {
            k->state = KEY_NEW;
        }
    }
    pthread_mutex_unlock(&d->lock);
}

void on_demand_ended(struct on_demand *d)
{
    pthread_mutex_lock(&d->lock);
    d->away = true;
    pthread_mutex_unlock(&d->lock);
}

void on_demand_begun(struct on_demand *d)
{
    struct key *k;

    pthread_mutex_lock(&d->lock);
    list_for_each (k, &d->use, use) {
        if (k->state == KEY_ASKED)
            k->state = KEY_NEW;
        if (k->state == KEY_NEW)
            post(d);
    }
    pthread_mutex_unlock(&d->lock);
}

/* Locked. An alias with the length of a whole address is the address. */
static bool answered(struct on_demand *d, const struct wire_field *f)
{
    char name[ON_DEMAND_KEY_MAX], *last;
    struct key *k;

    if (f->len >= sizeof(name) || memchr(f->bytes, '\0', f->len))
        return false;
    memcpy(name, f->bytes, f->len);
    name[f->len] = '\0';
    k = find(d, name);
    last = strrchr(name, '/');
    if (!k && last && (!strcmp(last, "/32") || !strcmp(last, "/128"))) {
        *last = '\0';
        k = find(d, name);
    }
    if (!k || k->state == KEY_ANSWERED)
        return false;
    k->state = KEY_ANSWERED;
    k->until = loop_now(d->config.loop) + d->config.absent;
    k->fresh = loop_now(d->config.loop) + d->config.fresh;
    return true;
}

static bool resource_answers(struct on_demand *d, const struct wire_field *resource)
{
    struct wire_reader r = wire_reader(resource->bytes, resource->len);
    struct wire_field f;
    bool any = false;

    while (wire_next(&r, &f) > 0) {
        if (f.type == WIRE_BYTES && (f.number == RESOURCE_NAME || f.number == RESOURCE_ALIAS))
            any |= answered(d, &f);
    }
    return any;
}

void on_demand_take_response(struct on_demand *d, const uint8_t *message, size_t len)
{
    struct wire_reader r = wire_reader(message, len);
    struct wire_field f;
    bool any = false;

    pthread_mutex_lock(&d->lock);
    while (wire_next(&r, &f) > 0) {
        if (f.type != WIRE_BYTES)
            continue;
        if (f.number == RESPONSE_RESOURCE)
            any |= resource_answers(d, &f);
        else if (f.number == RESPONSE_REMOVED)
            any |= answered(d, &f);
    }
    pthread_mutex_unlock(&d->lock);
    if (any)
        d->config.changed(d->config.data);
}

bool on_demand_expire(struct on_demand *d)
{
    uint64_t now = loop_now(d->config.loop);
    bool any;

    pthread_mutex_lock(&d->lock);
    any = !list_empty(&d->left);
    while (!list_empty(&d->use)) {
        struct key *k = list_first(&d->use, struct key, use);

        if (k->used + d->config.idle > now)
            break;
        leave(d, k);
        any = true;
    }
    pthread_mutex_unlock(&d->lock);
    return any;
}

void on_demand_write_metrics(struct on_demand *d, FILE *out)
{
    uint64_t asked, dropped;
    size_t len;

    pthread_mutex_lock(&d->lock);
    asked = d->asked;
    dropped = d->dropped;
    len = d->len;
    pthread_mutex_unlock(&d->lock);
    metric_counter(out, "bruma_xds_lookups", "Addresses and names that the control plane was asked for.",
                   asked);
    metric_counter(out, "bruma_xds_lookups_replaced",
                   "Those that were forgotten because there were too many (max-lookups).", dropped);
    metric_gauge(out, "bruma_xds_looked_up", "Addresses and names that are subscribed to.", (uint64_t)len);
}
