/* SPDX-License-Identifier: Apache-2.0 */
/* Peers whose certificates count no longer, and tunnels that end with a word. */
#define LOG_SCOPE "tunnel"
#include "lib/log.h"
#include "lib/reasons.h"
#include "proxy/hbone/tunnel.h"

void tunnel_close_reported(struct tunnel *t, enum bruma_reason reason, const char *detail)
{
    telemetry_early_deny(t->wp->worker->telemetry, t->server ? REPORTER_DESTINATION : REPORTER_SOURCE,
                         &t->peer, &t->arrival, reason, detail);
    tunnel_close(t, reason, detail);
}

void tunnel_check_revoked(struct tunnel *t)
{
    if (t->state == TUNNEL_OPEN && !t->closing && tls_peer_revoked(&t->tls))
        tunnel_close_reported(t, BRUMA_REASON_CERTIFICATE_REVOKED,
                              "peer certificate: revoked after the connection was made");
}

static void retire(struct tunnel *t, enum bruma_reason reason, const char *why)
{
    char peer[ENDPOINT_TEXT_LEN];

    log_info("a tunnel takes no new connections: %s\tpeer=%s identity=\"%s\" reason=%s", why,
             endpoint_format(&t->peer, peer), t->tls.peer_identity, reason_name(reason));
    tunnel_expire(t);
}

void tunnel_check_trusted(struct tunnel *t)
{
    struct tls_context *now;
    bool trusted;

    if (!t->server || t->state != TUNNEL_OPEN || t->closing || t->expired || t->goaway)
        return;
    now = worker_pod_context(t->wp);
    trusted = !now || tls_peer_trusted(&t->tls, now);
    tls_context_unref(now);
    if (!trusted)
        retire(t, BRUMA_REASON_PEER_TRUST_DOMAIN,
               "the roots of its peer's trust domain have changed, or are gone");
}

void tunnel_refuse_expired(struct tunnel *t)
{
    telemetry_early_deny(t->wp->worker->telemetry, REPORTER_DESTINATION, &t->peer, &t->arrival,
                         BRUMA_REASON_PEER_EXPIRED, NULL);
}

void tunnel_check_expired(struct tunnel *t)
{
    if (t->state != TUNNEL_OPEN || t->closing || t->expired || !tls_peer_expired(&t->tls))
        return;
    t->expired = true;
    retire(t, BRUMA_REASON_PEER_EXPIRED, "its peer's certificate has expired");
}
