/* SPDX-License-Identifier: Apache-2.0 */
#define LOG_SCOPE "dns"
#include "proxy/dns/decide.h"

#include "lib/log.h"
#include "proxy/route/endpoints.h"

/* Clients take the first. */
static void shuffle(uint64_t *random, struct addr *addresses, size_t len)
{
    for (size_t i = len; i > 1; i--) {
        size_t k = (size_t)random_below(random, i);
        struct addr swap = addresses[k];

        addresses[k] = addresses[i - 1];
        addresses[i - 1] = swap;
    }
}

/* 1: answered; 0: not ours; -ENOMEM. */
static int answer(struct worker_pod *wp, const struct message_question *q, size_t limit, struct decided *ret)
{
    const struct workload *source = worker_pod_source(wp);
    const struct names_asker asker = {.namespace = wp->pod->namespace,
                                      .network = source->network,
                                      .domain = wp->worker->settings->cluster_domain,
                                      .preferred_namespace = wp->worker->settings->preferred_namespace,
                                      .ipv6 = wp->worker->settings->ipv6,
                                      .search = wp->worker->settings->search_domains};
    struct names_found found;
    int r = wp->worker->settings->answers_dns
                ? names_find(wp->worker->state, &asker, q->name, q->ipv6, &found)
                : 0;

    if (r <= 0)
        return r;
    shuffle(&wp->worker->random, found.addresses, found.addresses_len);
    r = message_answer(q, &found, limit, &ret->answer, &ret->answer_len);
    log_debug("answered\tsrc.workload=\"%s\" src.namespace=\"%s\" query=%s domain=\"%s\" result=\"%s/%s\" "
              "endpoints=%zu",
              source->name, source->namespace, q->type, q->name, found.service->namespace,
              found.service->hostname, found.addresses_len);
    names_release(&found);
    return r < 0 ? r : 1;
}

void decide(struct worker_pod *wp, const uint8_t *data, size_t len, bool tcp, struct decided *ret)
{
    struct message_question q;
    int r = 0;

    *ret = (struct decided){.what = DECISION_IGNORE};
    message_read(data, len, &q);
    if (q.kind == MESSAGE_NONE)
        return;
    ret->series = dns_metrics_of(wp->worker->telemetry, q.type, tcp, worker_pod_source(wp));
    dns_metrics_request(ret->series);
    ret->what = DECISION_FORWARD;
    /* on demand the mesh is known in part: what is answered would depend on who has asked for what before */
    if (q.kind == MESSAGE_ADDRESS && !wp->worker->proxy->on_demand)
        r = answer(wp, &q, tcp ? MESSAGE_TCP_MAX : q.udp_size, ret);
    if (r != 0)
        ret->what = r > 0 ? DECISION_ANSWER : DECISION_IGNORE;
    message_release(&q);
}

int decide_failure(const uint8_t *data, size_t len, uint8_t **ret, size_t *ret_len)
{
    struct message_question q;
    int r;

    message_read(data, len, &q);
    r = message_failure(&q, ret, ret_len);
    message_release(&q);
    return r;
}
