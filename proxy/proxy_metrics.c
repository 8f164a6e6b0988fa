/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/proxy_metrics.h"

#include "proxy/admin/pods_pages.h"
#include "proxy/admin/process_metrics.h"
#include "proxy/direct/direct.h"
#include "proxy/flows/flows.h"
#include "proxy/handover/handover.h"
#include "proxy/identity/identity_metrics.h"
#include "proxy/memory/memory.h"
#include "proxy/otlp/otlp.h"
#include "proxy/proxy.h"
#include "proxy/resolve/resolver.h"
#include "proxy/worker/endpoint_notes.h"
#include "proxy/worker/pipes.h"
#include "proxy/worker/worker.h"

void proxy_metrics_large(void *data, FILE *out)
{
    struct proxy *p = data;
    struct telemetry *all[257];
    unsigned n = 0;

    flows_refresh(p->flows);
    for (; n < p->workers_len; n++)
        all[n] = p->workers[n]->telemetry;
    if (p->flows)
        all[n++] = flows_telemetry(p->flows);
    telemetry_write_metrics(all, n, out);
    endpoint_write_metrics(p, out);
    flows_write_metrics(p->flows, out);
}

void proxy_metrics(void *data, FILE *out)
{
    struct proxy *p = data;

    if (p->xds)
        xds_client_write_metrics(p->xds, out);
    if (p->identities)
        identity_write_metrics(p->identities, out);
    pods_write_metrics(p, out);
    resolver_write_metrics(p->resolver, out);
    memory_write_metrics(p, out);
    pipes_write_metrics(p, out);
    direct_write_metrics(p->direct, out);
    handover_write_metrics(p->handover, out);
    if (p->revoked)
        crl_watch_write_metrics(p->revoked, out);
    tls_resumption_write_metrics(&p->resumption, out);
    otlp_write_metrics(p->otlp, out);
    process_metrics_write(out);
}
