/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Certificates from the node's SPIRE agent, as streams that it answers on whenever it has something new: one
 * for each identity, by the selectors of its pods (Delegated Identity API). A proxy that speaks for itself
 * alone asks as any workload (Workload API).
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "lib/cleanup.h"
#include "lib/metrics_text.h"
#include "proxy/identity/identity_source.h"
#include "proxy/identity/identity_store.h"
#include "proxy/identity/spire_agent.h"
#include "proxy/identity/spire_issue.h"
#include "proxy/identity/spire_selectors.h"

#define CONCURRENT_MAX      64   /* first answers that are waited for at a time */
#define ANSWER_MILLISECONDS 5000 /* then the agent's silence is a failure */
#define REST_MILLISECONDS   2000 /* in which a certificate and its roots may come one after the other */
#define RENEW_PACE          20   /* milliseconds between one identity and the next, once the agent is back */

struct spire_source {
    struct identity_source source;
    struct loop *loop;
    const struct identity_config *config;
    struct spire_agent agent;
    struct list subscriptions;
};

/* Of one identity. */
struct subscription {
    struct list node;
    struct spire_source *source;
    struct identity *identity;
    struct grpc_call *call;   /* NULL: none just now */
    struct wire_writer asked; /* what it has been opened with */
    struct loop_timer ask;    /* to open it */
    struct loop_timer rest;   /* then what there is is a failure */
    bool answered;            /* on this call */
    bool settling;            /* rest is armed since an answer that is no good */
    struct spire_svid latest; /* the last that was well formed */
    char error[160];          /* of the last answer; "": it is well formed */
};

static struct spire_source *source_of(const struct identity_source *s)
{
    return container_of(s, struct spire_source, source);
}

/* ---- what the identity is given ---- */

static int fail(enum bruma_reason reason, const char *why, enum bruma_reason *ret, char *error, size_t size)
{
    snprintf(error, size, "%s", why);
    *ret = reason;
    return -EBADMSG;
}

/* By the agent's last word. */
static int judge(const struct subscription *sub, struct issued *ret, enum bruma_reason *reason, char *error,
                 size_t size)
{
    const struct spire_svid *s = &sub->latest;
    char text[160];

    if (!sub->answered)
        return fail(BRUMA_REASON_SPIRE_UNREACHABLE, "the agent does not answer", reason, error, size);
    if (*sub->error)
        return fail(BRUMA_REASON_SVID_INVALID, sub->error, reason, error, size);
    if (s->key)
        return spire_issue(identity_uri(sub->identity), &s->certificate, s->key, s,
                           sub->source->agent.trust.bundles, ret, reason, error, size);
    snprintf(text, sizeof(text), s->others ? "%zu entries match, of other identities" : "no entry matches",
             s->others);
    return fail(BRUMA_REASON_SPIRE_NO_ENTRY, text, reason, error, size);
}

/* Another context would mean new tunnels. */
static void give(struct subscription *sub, struct issued *issued)
{
    struct identity *i = sub->identity;

    if (!i->current.context || i->asking || *i->error || !spire_issue_same(&i->issued, issued))
        identity_issued(i, issued);
    issued_clear(issued);
}

/* Goes on with what there is, which today's roots have to have signed. Whether it does. */
static bool keep(const struct subscription *sub)
{
    struct identity *i = sub->identity;
    const struct bundles *with = i->issued.federated;
    struct spire_svid as_before = {.federated_len = with ? with->len : 0};
    struct issued kept = {};
    enum bruma_reason reason;
    char error[200];

    for (size_t n = 0; n < as_before.federated_len; n++)
        as_before.federated[n] = with->items[n].trust_domain;
    if (spire_issue(identity_uri(i), &i->issued.certificate, i->issued.key, &as_before,
                    sub->source->agent.trust.bundles, &kept, &reason, error, sizeof(error)) < 0)
        return reason != BRUMA_REASON_SVID_INVALID;
    if (!spire_issue_same(&i->issued, &kept))
        identity_issued(i, &kept);
    issued_clear(&kept);
    return true;
}

static void give_none(struct subscription *sub, enum bruma_reason reason, const char *error)
{
    struct identity *i = sub->identity;

    if (i->current.context && (reason == BRUMA_REASON_SPIRE_NO_ENTRY || !keep(sub)))
        identity_withdrawn(i, reason, error);
    else
        identity_failed(i, reason, error);
}

static void on_rest(struct loop_timer *timer)
{
    struct subscription *sub = container_of(timer, struct subscription, rest);
    struct issued issued = {};
    enum bruma_reason reason;
    char error[200];

    sub->settling = false;
    if (judge(sub, &issued, &reason, error, sizeof(error)) < 0)
        give_none(sub, reason, error);
    else
        give(sub, &issued);
}

/* Something has come: for it, or of the roots. */
static void consider(struct subscription *sub)
{
    struct issued issued = {};
    enum bruma_reason reason;
    char error[200];

    if (!sub->call || !sub->answered)
        return;
    if (judge(sub, &issued, &reason, error, sizeof(error)) == 0) {
        loop_timer_cancel(&sub->rest);
        sub->settling = false;
        give(sub, &issued);
        return;
    }
    if (reason == BRUMA_REASON_SPIRE_NO_ENTRY)
        loop_timer_set(sub->source->loop, &sub->ask, 0); /* the entry may be of a pod that came later */
    if (!sub->settling)
        loop_timer_set(sub->source->loop, &sub->rest, REST_MILLISECONDS);
    sub->settling = true;
}

static void on_trust_changed(void *data)
{
    struct spire_source *s = data;
    struct subscription *sub;

    list_for_each (sub, &s->subscriptions, node)
        consider(sub);
}

/* Who has none, or no newer one, need not wait until its turn comes. */
static void on_answers(void *data)
{
    struct spire_source *s = data;
    struct subscription *sub;
    uint64_t after = 0;

    list_for_each (sub, &s->subscriptions, node) {
        if (!sub->call && !sub->identity->asking && !sub->identity->waiting)
            loop_timer_set(s->loop, &sub->identity->timer, after += RENEW_PACE);
    }
}

/* ---- its stream ---- */

static int decode(struct subscription *sub, const uint8_t *message, size_t len, struct spire_svid *ret)
{
    return spire_svids_decode(message, len, identity_uri(sub->identity), ret, sub->error, sizeof(sub->error));
}

/* With the bundles on the same stream. Returns whether they have changed in *ret_changed. */
static int decode_workload(struct subscription *sub, const uint8_t *message, size_t len,
                           struct spire_svid *ret, bool *ret_changed)
{
    struct spire_agent *agent = &sub->source->agent;
    int r = spire_trust_begin(&agent->trust);

    if (r == 0)
        r = spire_workload_decode(message, len, identity_uri(sub->identity), ret, spire_trust_put,
                                  &agent->trust, sub->error, sizeof(sub->error));
    *ret_changed = spire_trust_end(&agent->trust, r == 0 && ret->key);
    spire_agent_is_up(agent);
    return r;
}

static void on_svids(void *data, const uint8_t *message, size_t len)
{
    struct subscription *sub = data;
    struct spire_svid fresh = {};
    bool changed = false;
    int r;

    sub->answered = true;
    snprintf(sub->error, sizeof(sub->error), "out of memory");
    r = sub->source->agent.workload_api ? decode_workload(sub, message, len, &fresh, &changed)
                                        : decode(sub, message, len, &fresh);
    if (r == 0) {
        sub->error[0] = '\0';
        spire_svid_clear(&sub->latest);
        sub->latest = fresh;
    }
    if (changed)
        on_trust_changed(sub->source);
    else
        consider(sub);
}

static void on_svids_end(void *data, enum grpc_status status, const char *text)
{
    struct subscription *sub = data;
    char error[200];
    enum bruma_reason reason = spire_agent_ended(status, text, error, sizeof(error));

    sub->call = NULL;
    sub->answered = sub->settling = false;
    loop_timer_cancel(&sub->rest);
    identity_failed(sub->identity, reason, error);
}

static const struct grpc_call_events svids_events = {.message = on_svids, .end = on_svids_end};

static void add_uid(void *data, const char *uid)
{
    struct spire_uids *uids = data;

    if (uids->len < SPIRE_UIDS_MAX)
        uids->items[uids->len++] = uid;
}

static int make_request(const struct spire_source *s, const char *uri, struct wire_writer *ret)
{
    struct spire_uids uids = {};

    if (s->agent.workload_api)
        return 0;
    s->config->pods(s->config->data, uri, add_uid, &uids);
    return spire_selectors_put(s->config->spire_selectors, uri, &uids, ret);
}

static bool same(const struct wire_writer *a, const struct wire_writer *b)
{
    return a->len == b->len && (!a->len || !memcmp(a->data, b->data, a->len));
}

/* Takes the request. */
static void subscribe(struct subscription *sub, struct wire_writer request)
{
    struct spire_source *s = sub->source;
    char why[64], error[200];
    int r;

    grpc_call_cancel(&sub->call);
    loop_timer_cancel(&sub->rest);
    wire_writer_clear(&sub->asked);
    sub->asked = request;
    sub->answered = sub->settling = false;
    r = spire_agent_subscribe(&s->agent, &sub->asked, &svids_events, sub, &sub->call);
    if (r == 0) {
        loop_timer_set(s->loop, &sub->rest, ANSWER_MILLISECONDS);
        return;
    }
    snprintf(error, sizeof(error), "%s: %s", s->agent.socket, strerror_r(-r, why, sizeof(why)));
    identity_failed(sub->identity, BRUMA_REASON_SPIRE_UNREACHABLE, error);
}

/* A stream whose selectors are still those of the identity's pods is left as it is. */
static void on_ask(struct loop_timer *timer)
{
    struct subscription *sub = container_of(timer, struct subscription, ask);
    struct wire_writer request = {};
    int r = make_request(sub->source, identity_uri(sub->identity), &request);

    if (r < 0) {
        identity_failed(sub->identity, BRUMA_REASON_SPIRE_NO_ENTRY,
                        r == -ENOMEM ? "out of memory"
                                     : "no selectors can be made of the identity and its pods");
    } else if (!sub->call || !same(&request, &sub->asked)) {
        subscribe(sub, request);
    } else {
        wire_writer_clear(&request);
        if (sub->identity->asking && !loop_timer_armed(&sub->rest))
            loop_timer_set(sub->source->loop, &sub->rest, REST_MILLISECONDS);
    }
}

/* Later: a pod is not among the node's yet when its identity is asked for. */
static int request(struct identity_source *source, struct identity *identity)
{
    struct spire_source *s = source_of(source);
    struct subscription *sub = identity->asked;

    if (!sub) {
        sub = calloc(1, sizeof(*sub));
        if (!sub)
            return -ENOMEM;
        sub->source = s;
        sub->identity = identity;
        loop_timer_init(&sub->ask, on_ask);
        loop_timer_init(&sub->rest, on_rest);
        list_add_tail(&s->subscriptions, &sub->node);
        identity->asked = sub;
    }
    loop_timer_set(s->loop, &sub->ask, 0);
    return 0;
}

static void forget(struct identity_source *source, struct identity *identity)
{
    struct spire_source *s = source_of(source);
    struct subscription *sub = identity->asked;

    if (!sub)
        return;
    identity->asked = NULL;
    loop_timer_cancel(&sub->ask);
    loop_timer_cancel(&sub->rest);
    grpc_call_cancel(&sub->call);
    wire_writer_clear(&sub->asked);
    spire_svid_clear(&sub->latest);
    list_del(&sub->node);
    loop_free_later(s->loop, sub);
    if (list_empty(&s->subscriptions))
        spire_agent_leave(&s->agent);
}

/* ---- the source ---- */

static void write_metrics(const struct identity_source *source, FILE *out)
{
    const struct spire_source *s = source_of(source);
    const struct subscription *sub;
    uint64_t streams = 0;

    list_for_each (sub, &s->subscriptions, node)
        streams += sub->call && sub->answered;
    metric_gauge(out, "bruma_spire_subscriptions", "Identities whose certificates SPIRE's agent sends.",
                 streams);
    spire_agent_write_metrics(&s->agent, out);
}

static void free_source(struct identity_source *source)
{
    struct spire_source *s = source_of(source);

    spire_agent_clear(&s->agent);
    free(s);
}

static const struct identity_source_type type = {
    .name = "spire",
    .concurrent = CONCURRENT_MAX,
    .pushes = true,
    .own_domain_only = true,
    .unreachable = BRUMA_REASON_SPIRE_UNREACHABLE,
    .refused = BRUMA_REASON_SVID_INVALID,
    .request = request,
    .forget = forget,
    .write_metrics = write_metrics,
    .free = free_source,
};

int spire_source_new(struct loop *loop, const struct identity_config *config, struct identity_source **ret)
{
    struct spire_source *s = calloc(1, sizeof(*s));

    if (!s)
        return -ENOMEM;
    s->source.type = &type;
    s->loop = loop;
    s->config = config;
    spire_agent_init(&s->agent, loop, config->spire_socket, config->for_itself);
    s->agent.answers = on_answers;
    s->agent.trust_changed = on_trust_changed;
    s->agent.data = s;
    list_init(&s->subscriptions);
    *ret = &s->source;
    return 0;
}
