/* SPDX-License-Identifier: Apache-2.0 */
/* Whom a route expects at the other end. */
#include <string.h>

#include "proxy/route/route.h"
#include "proxy/state/hash.h"

bool route_expects(const struct workload *upstream, const struct service *expected_service,
                   const struct trust_domains *aliases, const char *own, const char *identity)
{
    if (!identity || !*identity)
        return false;
    if (upstream && trust_domains_same_identity(aliases, own, upstream->identity, identity))
        return true;
    for (size_t i = 0; expected_service && i < expected_service->subject_alt_names_len; i++) {
        if (trust_domains_same_identity(aliases, own, expected_service->subject_alt_names[i], identity))
            return true;
    }
    return false;
}

uint64_t route_expected_hash(const struct workload *upstream, const struct service *expected_service)
{
    uint64_t sum = upstream ? hash_text(upstream->identity) : 0;

    /* a sum: the order of the names does not matter. The hash is keyed, so nobody can aim at an equal one. */
    for (size_t i = 0; expected_service && i < expected_service->subject_alt_names_len; i++)
        sum += hash_pair(1, hash_text(expected_service->subject_alt_names[i]));
    return hash_pair(sum, 2);
}

uint64_t route_inner_hash(const struct service *expected_service, const char *authority, uint64_t outer)
{
    /* in a pool with the tunnels to the gateway itself, whose hashes end otherwise */
    return hash_pair(hash_pair(route_expected_hash(NULL, expected_service), hash_text(authority)),
                     hash_pair(outer, 3));
}
