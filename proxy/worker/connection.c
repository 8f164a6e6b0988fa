/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/worker/connection.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define LOG_SCOPE "rbac"
#include "lib/log.h"
#include "lib/spiffe.h"
#include "proxy/telemetry/tracing.h"

#define STRINGS_FREE 4096 /* what usual baggage takes is not counted */

void connection_init(struct connection *c, struct worker_pod *wp, bool inbound, const struct endpoint *client,
                     const struct endpoint *destination,
                     void (*abort)(struct connection *, enum bruma_reason, const char *))
{
    memset(c, 0, sizeof(*c));
    c->wp = wp;
    c->inbound = inbound;
    c->client = *client;
    c->destination = *destination;
    c->abort = abort;
    c->account.share = &wp->memory;
    list_add_tail(&wp->connections, &c->node);
    quota_take(wp, inbound ? &c->client.addr : NULL, &c->quota);
    worker_connection_begin(wp);
}

void connection_move(struct connection *to, struct connection *from,
                     void (*abort)(struct connection *, enum bruma_reason, const char *))
{
    *to = *from;
    to->abort = abort;
    list_add_tail(&from->node, &to->node); /* in its place */
    list_del(&from->node);
}

static char *append(char **at, const char *text)
{
    char *begin = *at;
    size_t len;

    if (!text || !begin)
        return NULL;
    len = strlen(text) + 1;
    memcpy(begin, text, len);
    *at += len;
    return begin;
}

int connection_describe(struct connection *c, const struct workload *source,
                        const struct workload *destination, const struct service *service,
                        const char *peer_identity, const char *baggage, const char *authority)
{
    const struct workload *local = c->inbound ? destination : source;
    size_t len = 0;
    char *at, *strings = NULL;

    if (peer_identity)
        len += strlen(peer_identity) + 1;
    if (baggage)
        len += strlen(baggage) + 1;
    if (authority)
        len += strlen(authority) + 1;
    if (len) {
        strings = malloc(len);
        if (!strings)
            return -ENOMEM;
    }
    if (len > STRINGS_FREE && budget_take(&c->account, len) < 0) {
        free(strings);
        return -ENOBUFS;
    }
    at = strings;
    free(c->strings);
    c->strings = strings;
    c->peer_identity = append(&at, peer_identity);
    workload_unref(c->flow.source);
    workload_unref(c->flow.destination);
    service_unref(c->flow.service);
    c->flow.source = source;
    c->flow.destination = destination;
    c->flow.service = service;
    c->flow.baggage = append(&at, baggage);
    c->flow.hbone_authority = append(&at, authority);
    c->flow.mutual_tls = peer_identity && !c->flow.same_node;
    c->flow.source_identity = c->flow.destination_identity = NULL;
    if (peer_identity) {
        const char *own = local ? local->identity : NULL;

        c->flow.source_identity = c->inbound ? c->peer_identity : own;
        c->flow.destination_identity = c->inbound ? own : c->peer_identity;
    }
    return 0;
}

static void set_addresses(struct connection *c, const struct endpoint *actual)
{
    c->flow.reporter = c->inbound ? REPORTER_DESTINATION : REPORTER_SOURCE;
    c->flow.source_address = c->client;
    c->flow.destination_address = *actual;
}

void connection_dial(struct connection *c, const struct endpoint *actual)
{
    set_addresses(c, actual);
    telemetry_begin(&c->flow);
    telemetry_trace(connection_worker(c)->telemetry, &c->flow, NULL);
    c->opens_late = c->gateway = true;
}

void connection_open(struct connection *c, const struct endpoint *actual)
{
    set_addresses(c, actual);
    c->opens_late = false;
    c->flow.tentative = c->endpoint.port != 0;
    telemetry_open(connection_worker(c)->telemetry, &c->flow);
    c->opened = true;
}

void connection_served(struct connection *c)
{
    struct connection_news *news = c->news;

    c->news = NULL;
    if (news)
        news->served(news);
}

void connection_close(struct connection *c, enum bruma_reason reason, const char *detail)
{
    struct telemetry *t = connection_worker(c)->telemetry;

    if (c->opens_late) {
        telemetry_open(t, &c->flow);
        c->opened = true;
    }
    if (c->opened)
        telemetry_close(t, &c->flow, reason, detail);
    else if (reason != BRUMA_REASON_NONE)
        telemetry_early_deny(t, c->inbound ? REPORTER_DESTINATION : REPORTER_SOURCE, &c->client,
                             &c->destination, reason, detail);
    if (c->news)
        c->news->failed(c->news, reason);
    c->news = NULL;
    c->opened = c->opens_late = c->gateway = false;
    list_del(&c->node);
    workload_unref(c->flow.source);
    workload_unref(c->flow.destination);
    service_unref(c->flow.service);
    free(c->tried);
    c->tried = NULL;
    tls_context_unref(c->peer_certificate);
    c->peer_certificate = NULL;
    free(c->strings);
    c->strings = NULL;
    tracing_end(&c->flow);
    memset(&c->flow, 0, sizeof(c->flow));
    budget_give_all(&c->account);
    quota_release(c->wp, &c->client.addr, &c->quota);
    worker_connection_end(c->wp);
}

/* Says once, and again when it changes, what dry-run policies would have made of the connection. */
static void tell_dry_run(struct connection *c, const struct policy_verdict *v)
{
    enum log_level level = connection_worker(c)->settings->dry_run_info ? LOG_LEVEL_INFO : LOG_LEVEL_DEBUG;
    char from[ENDPOINT_TEXT_LEN], to[ENDPOINT_TEXT_LEN], identity[SPIFFE_MAX + 64] = "";

    if (c->dry_run == v->dry_run)
        return;
    c->dry_run = v->dry_run;
    if (v->dry_run == POLICY_DRY_RUN_NONE)
        return;
    telemetry_dry_run(connection_worker(c)->telemetry, v->dry_run, v->dry_run_policy);
    if (!log_enabled(level, LOG_SCOPE))
        return;
    if (flow_authenticated(&c->flow))
        snprintf(identity, sizeof(identity), " src.identity=\"%s\"", c->peer_identity);
    log_write(level, LOG_SCOPE, "dry-run policies: %s\tdry_run=%s%s%s src.addr=%s%s dst.addr=%s",
              policy_dry_run_text(v->dry_run), policy_dry_run_name(v->dry_run),
              *v->dry_run_policy ? " policy=" : "", v->dry_run_policy, endpoint_format(&c->client, from),
              identity, endpoint_format(&c->destination, to));
}

enum connection_verdict connection_authorize(struct connection *c, bool final, enum bruma_reason *ret_reason,
                                             char *detail, size_t size)
{
    struct policy_request request = {.source = c->client,
                                     .destination = c->destination,
                                     .identity = flow_authenticated(&c->flow) ? c->peer_identity : NULL};
    const struct workload *local = worker_pod_workload(c->wp);
    struct policy_verdict verdict;

    policy_check(c->wp->worker->state, local ? local : c->flow.destination, &request, &verdict);
    if (verdict.unknown && !final)
        return CONNECTION_UNDECIDED;
    tell_dry_run(c, &verdict);
    if (verdict.allowed)
        return CONNECTION_ALLOWED;
    *ret_reason = verdict.unknown ? BRUMA_REASON_POLICY_MISSING : BRUMA_REASON_POLICY_DENIED;
    snprintf(detail, size, "%s", verdict.text);
    return CONNECTION_DENIED;
}
