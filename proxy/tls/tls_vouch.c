/* SPDX-License-Identifier: Apache-2.0 */
/* What a handshake between two certificates of this process would come to. */
#include <string.h>

#include "proxy/route/route.h"
#include "proxy/tls/crl.h"
#include "proxy/tls/tls.h"

bool tls_context_revoked(const struct tls_buffers *buffers, const struct tls_context *context)
{
    return buffers->revoked &&
           (crl_missing(buffers->revoked) || crl_revokes(buffers->revoked, context->chain));
}

/* Roots that differ are those of a change of them: whether the one trusts the other only the handshake says.
 */
bool tls_vouches(const struct tls_buffers *buffers, const struct tls_context *client,
                 const struct tls_context *server, const struct tls_expected *expected)
{
    const char *own = server->trust_domain;

    return client->chain && server->chain &&
           !memcmp(client->roots_digest, server->roots_digest, sizeof(client->roots_digest)) &&
           !tls_context_revoked(buffers, client) && !tls_context_revoked(buffers, server) &&
           trust_domains_same(buffers->trust_domains, own, client->trust_domain, strlen(client->trust_domain),
                              own, strlen(own)) &&
           route_expects(expected->upstream, expected->service, buffers->trust_domains, client->trust_domain,
                         server->identity);
}
