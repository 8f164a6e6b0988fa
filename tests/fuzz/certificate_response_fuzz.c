/* SPDX-License-Identifier: Apache-2.0 */
/* Answers of a certificate authority: refused with a reason, or (which nobody can forge here) whole. */
#include <openssl/ec.h>
#include <openssl/evp.h>
#include <stdlib.h>

#include "proxy/identity/certificate.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static EVP_PKEY *key;
    struct certificate certificate = {};
    char error[256] = "";

    if (!key)
        key = EVP_EC_gen("prime256v1");
    if (certificate_response(data, size, "spiffe://cluster.local/ns/shop/sa/web", key, &certificate, error,
                             sizeof(error)) == 0 ||
        !*error)
        abort();
    return 0;
}
