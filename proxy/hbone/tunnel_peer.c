/* SPDX-License-Identifier: Apache-2.0 */
/* Peers whose certificates, or keys, count no longer, and tunnels that end with a word. */
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

/* Whom this pod was has been withdrawn from it. Not of a tunnel that has just come from another process,
 * which may have its certificate before this one has. */
static void check_own_identity(struct tunnel *t)
{
    char why[160];

    if (!t->tls.context || !worker_pod_identity_failed(t->wp, why, sizeof(why)))
        return;
    t->untrusted = t->withdrawn = true;
    retire(t, BRUMA_REASON_IDENTITY_UNAVAILABLE, "the pod's own identity has been withdrawn");
}

/* A peer that has said GOAWAY itself may open streams all the same, and be about to. */
void tunnel_check_trusted(struct tunnel *t)
{
    struct tls_context *now;

    if (!t->server || t->state != TUNNEL_OPEN || t->closing || t->untrusted)
        return;
    now = worker_pod_context(t->wp);
    if (!now) {
        check_own_identity(t);
        return;
    }
    t->untrusted = !tls_peer_trusted(&t->tls, now);
    /* By which roots one was verified that has come from another process is not known: from here on by those
     * of now. */
    if (!t->tls.context)
        t->tls.context = tls_context_ref(now);
    tls_context_unref(now);
    if (t->untrusted)
        retire(t, BRUMA_REASON_PEER_TRUST_DOMAIN,
               "the roots of its peer's trust domain have changed, or are gone");
}

/* Our GOAWAY may wait for a peer that reads nothing: until it has left, nghttp2 takes what comes. */
bool tunnel_refuses(struct tunnel *t)
{
    enum bruma_reason reason = tls_peer_expired(&t->tls) ? BRUMA_REASON_PEER_EXPIRED
                               : t->withdrawn            ? BRUMA_REASON_IDENTITY_UNAVAILABLE
                               : t->untrusted            ? BRUMA_REASON_PEER_TRUST_DOMAIN
                                                         : BRUMA_REASON_NONE;

    if (reason == BRUMA_REASON_NONE)
        return false;
    telemetry_early_deny(t->wp->worker->telemetry, REPORTER_DESTINATION, &t->peer, &t->arrival, reason,
                         reason == BRUMA_REASON_PEER_EXPIRED ? NULL
                         : t->withdrawn                      ? "the pod's own identity has been withdrawn"
                                                             : "its roots are not trusted any more");
    return true;
}

void tunnel_check_keys(struct tunnel *t)
{
    char peer[ENDPOINT_TEXT_LEN];

    if (t->goaway || t->shutting_down || !tls_keys_worn(&t->tls))
        return;
    log_info("a tunnel takes no new connections: its keys, of TLS 1.2, are used up\tpeer=%s identity=\"%s\"",
             endpoint_format(&t->peer, peer), t->tls.peer_identity);
    tunnel_drain(t);
}

void tunnel_check_expired(struct tunnel *t)
{
    if (t->state != TUNNEL_OPEN || t->closing || t->expired || !tls_peer_expired(&t->tls))
        return;
    t->expired = true;
    retire(t, BRUMA_REASON_PEER_EXPIRED, "its peer's certificate has expired");
}
