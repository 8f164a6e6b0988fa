/* SPDX-License-Identifier: Apache-2.0 */
/* Any datagram on the socket between a CNI agent and a node proxy, read as each of the three kinds. What has
 * been understood is written again and must then mean the same. */
#include "lib/zds.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static bool same(const char *a, const char *b)
{
    return a == b || (a && b && !strcmp(a, b));
}

static void as_request(const uint8_t *data, size_t size)
{
    _cleanup_zds_request_ struct zds_request a = {}, b = {};
    uint8_t buf[ZDS_MESSAGE_MAX];
    ssize_t len;

    if (zds_request_decode(data, size, &a) < 0) {
        if (a.owner)
            abort();
        return;
    }
    len = zds_request_encode(&a, buf);
    if (len < 0 || zds_request_decode(buf, (size_t)len, &b) < 0)
        abort();
    if (a.kind != b.kind || a.has_info != b.has_info || !same(a.uid, b.uid) || !same(a.name, b.name) ||
        !same(a.namespace, b.namespace) || !same(a.service_account, b.service_account))
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char error[64], again[64];
    uint8_t buf[ZDS_MESSAGE_MAX];
    unsigned version;

    as_request(data, size);
    if (zds_hello_decode(data, size, &version) == 0 && version < ZDS_VERSION)
        abort();
    if (zds_response_decode(data, size, error, sizeof(error)) == 0) {
        ssize_t len = zds_response_encode(error, buf);

        if (len < 0 || zds_response_decode(buf, (size_t)len, again, sizeof(again)) < 0 ||
            strcmp(error, again))
            abort();
    }
    return 0;
}
