/* SPDX-License-Identifier: Apache-2.0 */
/* Whether the peer's certificate, which was good in the handshake, still is. */
#include "lib/wall.h"
#include "proxy/tls/crl.h"
#include "proxy/tls/tls.h"

bool tls_peer_revoked(const struct tls *tls)
{
    return tls->peer_chain && tls->buffers->revoked && crl_revokes(tls->buffers->revoked, tls->peer_chain);
}

bool tls_peer_expired(const struct tls *tls)
{
    return wall_seconds() >= tls->peer_until;
}

int64_t tls_peer_time_left(const struct tls *tls)
{
    int64_t now = wall_milliseconds();

    return tls->peer_until > INT64_MAX / 1000 ? INT64_MAX : tls->peer_until * 1000 - now;
}
