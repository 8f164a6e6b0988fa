/* SPDX-License-Identifier: Apache-2.0 */
/* Messages of SPIRE's agent: the first byte says which. Refused with a reason, or whole. */
#include <stdlib.h>
#include <string.h>

#include "proxy/identity/spire_messages.h"

#define WEB "spiffe://near.domain/ns/shop/sa/web"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int take_bundle(void *set, const char *trust_domain, STACK_OF(X509) * roots, const char *error)
{
    if (!*trust_domain || strchr(trust_domain, '/') || (!roots && !*error))
        abort();
    return roots ? bundles_put(set, trust_domain, roots) : 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct bundles *set = bundles_new();
    struct spire_svid svid = {};
    char error[200] = "";
    int which = size ? data[0] % 3 : 0, r;

    data += size > 0;
    size -= size > 0;
    if (which == 0)
        r = spire_svids_decode(data, size, WEB, &svid, error, sizeof(error));
    else if (which == 1)
        r = spire_bundles_decode(data, size, take_bundle, set, error, sizeof(error));
    else
        r = spire_workload_decode(data, size, WEB, &svid, take_bundle, set, error, sizeof(error));
    if ((r < 0) != (*error != '\0') || (svid.key && (r < 0 || svid.certificate.chain_len != 1)))
        abort();
    spire_svid_clear(&svid);
    bundles_unref(set);
    return 0;
}
