/* SPDX-License-Identifier: Apache-2.0 */
/* What the pod is told, and what is told of failures. */
#define LOG_SCOPE "dns"
#include <string.h>

#include "lib/log.h"
#include "lib/reasons.h"
#include "proxy/dns/dns_private.h"

void dns_pod_failed(struct dns_pod *d, const struct endpoint *server, enum bruma_reason reason,
                    const char *detail)
{
    char text[ENDPOINT_TEXT_LEN];

    telemetry_failure(d->wp->worker->telemetry, reason);
    log_debug("a question is not answered\tpod=\"%s/%s\" server=%s reason=%s error=\"%s\"",
              d->wp->pod->namespace, d->wp->pod->name, endpoint_format(server, text), reason_name(reason),
              detail);
}

/* From the address that the question came to: netfilter takes its translation back. Not by the socket, which
 * another proxy may have taken over meanwhile. */
void dns_pod_answer(struct dns_pod *d, const struct endpoint *client, const struct endpoint *server,
                    const struct endpoint *arrival, const uint8_t *data, size_t len)
{
    struct pod *pod = d->wp->pod;
    int r = datagram_send_as(d->wp->worker, pod, &d->sender, pod->redirected ? arrival : server, client, data,
                             len);
    char buf[128];

    if (r < 0)
        dns_pod_failed(d, server, BRUMA_REASON_DNS_ANSWER_LOST, strerror_r(-r, buf, sizeof(buf)));
}
