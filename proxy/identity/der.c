/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/identity/der.h"

#include <errno.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

static int fail(int r, const char *why, char *error, size_t size)
{
    snprintf(error, size, "%s", why);
    ERR_clear_error();
    return r;
}

int der_certificates(const uint8_t *der, size_t len, int max, STACK_OF(X509) * all, char *error,
                     size_t error_size)
{
    const uint8_t *at = der;

    if (!len)
        return fail(-EBADMSG, "no certificate (DER)", error, error_size);
    while (at < der + len) {
        X509 *cert;

        if (sk_X509_num(all) >= max)
            return fail(-E2BIG, "too many certificates", error, error_size);
        cert = d2i_X509(NULL, &at, der + len - at);
        if (!cert)
            return fail(-EBADMSG, "a damaged certificate", error, error_size);
        if (sk_X509_push(all, cert) > 0)
            continue;
        X509_free(cert);
        return fail(-ENOMEM, "out of memory", error, error_size);
    }
    return 0;
}

int der_key(const uint8_t *der, size_t len, EVP_PKEY **ret, char *error, size_t error_size)
{
    const uint8_t *at = der;
    PKCS8_PRIV_KEY_INFO *info = len ? d2i_PKCS8_PRIV_KEY_INFO(NULL, &at, (long)len) : NULL;
    EVP_PKEY *key = info && at == der + len ? EVP_PKCS82PKEY(info) : NULL;

    PKCS8_PRIV_KEY_INFO_free(info);
    if (!key)
        return fail(-EBADMSG, "no private key (DER, PKCS#8)", error, error_size);
    ERR_clear_error();
    *ret = key;
    return 0;
}

char *certificates_pem(const STACK_OF(X509) * all)
{
    BIO *bio = BIO_new(BIO_s_mem());
    char *text = NULL, *data;
    bool ok = bio;
    long n;

    for (int i = 0; ok && i < sk_X509_num(all); i++)
        ok = PEM_write_bio_X509(bio, sk_X509_value(all, i));
    n = ok ? BIO_get_mem_data(bio, &data) : 0;
    if (n > 0)
        text = strndup(data, (size_t)n);
    BIO_free(bio);
    ERR_clear_error();
    return text;
}
