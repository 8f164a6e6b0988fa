/* SPDX-License-Identifier: Apache-2.0 */
/* SPIFFE identities: what is accepted is what formatting its parts gives back. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "lib/spiffe.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char parts[3][SPIFFE_MAX] = {}, again[SPIFFE_MAX];
    struct spiffe s;
    int n;

    if (spiffe_parse((const char *)data, size, &s) < 0)
        return 0;
    if (!s.trust_domain_len || !s.namespace_len || !s.service_account_len || size >= SPIFFE_MAX)
        abort();
    memcpy(parts[0], s.trust_domain, s.trust_domain_len);
    memcpy(parts[1], s.namespace, s.namespace_len);
    memcpy(parts[2], s.service_account, s.service_account_len);
    n = spiffe_format(again, sizeof(again), parts[0], parts[1], parts[2]);
    if (n != (int)size || memcmp(again, data, size) != 0)
        abort();
    return 0;
}
