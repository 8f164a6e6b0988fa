/* SPDX-License-Identifier: Apache-2.0 */
#define LOG_SCOPE "xds"
#include "proxy/xds/xds_on_demand.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "lib/log.h"
#include "proxy/state/state_store.h"
#include "proxy/xds/xds_request.h"

#define TIDY_MIN 50    /* milliseconds */
#define TIDY_MAX 30000 /* milliseconds */

/* ---- what stays ---- */

static bool wants_address(struct on_demand *keys, const char *network, const struct addr *addr)
{
    char key[ON_DEMAND_KEY_MAX], text[ADDR_TEXT_LEN];

    snprintf(key, sizeof(key), "%s/%s", network, addr_format(addr, text));
    return on_demand_wants(keys, key);
}

static bool wants_name(struct on_demand *keys, const char *namespace, const char *hostname)
{
    char key[ON_DEMAND_KEY_MAX];

    snprintf(key, sizeof(key), "%s/%s", namespace, hostname);
    return on_demand_wants(keys, key);
}

static bool service_stays(struct on_demand *keys, const struct service_full *s)
{
    if (wants_name(keys, s->public.namespace, s->public.hostname))
        return true;
    for (size_t i = 0; i < s->addresses_len; i++) {
        if (s->addresses[i].cidr.length == 128 &&
            wants_address(keys, s->addresses[i].network, &s->addresses[i].cidr.addr))
            return true;
    }
    return false;
}

static bool workload_stays(const struct xds_on_demand *d, const struct workload_full *w)
{
    if (!strcmp(w->public.node, d->node_name) || on_demand_wants(d->keys, w->public.uid))
        return true;
    if (*w->public.hostname && wants_name(d->keys, w->public.namespace, w->public.hostname))
        return true;
    for (size_t i = 0; i < w->addresses_len; i++) {
        if (wants_address(d->keys, w->public.network, &w->addresses[i].addr))
            return true;
    }
    for (size_t i = 0; i < w->services_len; i++) {
        const struct service_full *s = rcu_read(w->services[i].node->service);

        if (s && service_stays(d->keys, s))
            return true;
    }
    return false;
}

static bool stays(const struct xds_on_demand *d, const char *name)
{
    const struct workload_full *w = find_workload_by_uid(d->state, name);
    const char *slash = strchr(name, '/');
    const struct service_full *s = NULL;

    if (w)
        return workload_stays(d, w);
    if (slash) {
        char *namespace = strndup(name, (size_t)(slash - name));

        s = namespace ? find_service(d->state, namespace, slash + 1) : NULL;
        free(namespace);
    }
    return s && service_stays(d->keys, s);
}

/* ---- requests ---- */

struct names {
    char **all;
    size_t len, room;
};

static void names_add(struct names *names, const char *name, size_t len)
{
    if (names->len == names->room) {
        size_t room = names->room ? names->room * 2 : 64;
        char **more = reallocarray(names->all, room, sizeof(*more));

        if (!more)
            return; /* what is not asked for has no answer, and is asked for again; the rest is found again */
        names->all = more;
        names->room = room;
    }
    names->all[names->len] = strndup(name, len);
    names->len += names->all[names->len] != NULL;
}

static void names_free(struct names *names)
{
    for (size_t i = 0; i < names->len; i++)
        free(names->all[i]);
    free(names->all);
}

struct asking {
    struct names left, ask, leave; /* leave: what is to be left before it is asked for again */
};

static void note_left(void *data, const char *key)
{
    names_add(&((struct asking *)data)->left, key, strlen(key));
}

static void note_ask(void *data, const char *key, bool told)
{
    struct asking *a = data;

    names_add(&a->ask, key, strlen(key));
    if (told)
        names_add(&a->leave, key, strlen(key));
}

/* A control plane subscribes a stream to the resources that it sends, by their names: one of those is wanted
 * as long as it stays, and is asked for again like a key that was asked for. */
static void mind_resources(const struct xds_on_demand *d, struct asking *a)
{
    for (size_t i = 0; i < a->left.len; i++) {
        const char *name = a->left.all[i];

        if (!xds_versions_has(d->versions, name, strlen(name)) || !stays(d, name))
            names_add(&a->leave, name, strlen(name));
    }
    for (size_t i = 0; i < a->ask.len; i++) {
        const char *name = a->ask.all[i];

        if (xds_versions_has(d->versions, name, strlen(name)))
            names_add(&a->leave, name, strlen(name));
    }
}

static void tell(struct xds_on_demand *d)
{
    struct asking a = {};

    if (!d->call)
        return; /* the next first request has them all */
    on_demand_take(d->keys, note_left, note_ask, &a);
    mind_resources(d, &a);
    /* two messages: a name that is left and asked for in one is left */
    if (a.leave.len)
        xds_request_names(d->call, false, a.leave.all, a.leave.len);
    if (a.ask.len)
        xds_request_names(d->call, true, a.ask.all, a.ask.len);
    names_free(&a.left);
    names_free(&a.leave);
    names_free(&a.ask);
}

static void on_wanted(void *data)
{
    tell(data);
}

/* ---- what goes ---- */

struct going {
    const struct xds_on_demand *d;
    struct names names;
};

static bool note_going(void *data, const char *name, size_t name_len, const char *version, size_t version_len)
{
    struct going *g = data;
    char *text = strndup(name, name_len);

    (void)version;
    (void)version_len;
    if (text && !stays(g->d, text))
        names_add(&g->names, name, name_len);
    free(text);
    return true;
}

static void let_go(struct xds_on_demand *d)
{
    struct going g = {.d = d};

    xds_versions_each(d->versions, note_going, &g);
    for (size_t i = 0; i < g.names.len; i++) {
        state_remove(d->state, STATE_ADDRESS, g.names.all[i]);
        xds_versions_remove(d->versions, g.names.all[i], strlen(g.names.all[i]));
    }
    if (g.names.len) {
        d->left += g.names.len;
        if (d->call)
            xds_request_names(d->call, false, g.names.all, g.names.len);
        state_commit(d->state);
        log_debug("resources that nobody has used lately are left\tresources=%zu", g.names.len);
    }
    names_free(&g.names);
}

/* While the first request of a stream is not settled, what it did not list is xds_sweep's. */
static void on_tidy(struct loop_timer *timer)
{
    struct xds_on_demand *d = container_of(timer, struct xds_on_demand, tidy);

    if (on_demand_expire(d->keys))
        tell(d);
    if (!xds_versions_unsent(d->versions))
        let_go(d);
    loop_timer_set(d->loop, &d->tidy, d->interval);
}

/* ---- the stream ---- */

void xds_on_demand_init(struct xds_on_demand *d, struct on_demand *keys, struct loop *loop,
                        struct state *state, struct xds_versions *versions, const char *node_name,
                        unsigned long idle)
{
    *d = (struct xds_on_demand){
        .keys = keys, .loop = loop, .state = state, .versions = versions, .node_name = node_name};
    loop_timer_init(&d->tidy, on_tidy);
    if (!keys)
        return;
    d->interval = idle / 4;
    if (d->interval < TIDY_MIN)
        d->interval = TIDY_MIN;
    if (d->interval > TIDY_MAX)
        d->interval = TIDY_MAX;
    on_demand_serve(keys, on_wanted, d);
    loop_timer_set(loop, &d->tidy, d->interval);
}

void xds_on_demand_end(struct xds_on_demand *d)
{
    if (!d->keys)
        return;
    on_demand_serve(d->keys, NULL, NULL);
    loop_timer_cancel(&d->tidy);
}

struct first {
    struct wire_writer *writer;
    size_t bound;
};

static bool put_key(void *data, const char *key)
{
    struct first *f = data;

    return xds_request_put_version(f->writer, f->bound, key, strlen(key), "", 0);
}

void xds_on_demand_first(struct xds_on_demand *d, struct wire_writer *writer, size_t bound)
{
    struct first f = {writer, bound};

    if (!d->keys)
        return;
    xds_request_put_nothing(writer);
    on_demand_begin(d->keys, put_key, &f);
}

void xds_on_demand_begin(struct xds_on_demand *d, struct grpc_call *call)
{
    d->call = d->keys ? call : NULL;
    d->begun = false;
}

void xds_on_demand_hang_up(struct xds_on_demand *d)
{
    if (d->keys)
        on_demand_ended(d->keys);
    d->call = NULL;
}

void xds_on_demand_answered(struct xds_on_demand *d, const uint8_t *message, size_t len)
{
    if (!d->keys)
        return;
    on_demand_take_response(d->keys, message, len);
    if (d->begun)
        return;
    d->begun = true;
    on_demand_begun(d->keys);
}
