/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/identity/certificate_dump.h"

#include <openssl/err.h>
#include <openssl/pem.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/cleanup.h"

static void add_base64(cJSON *object, const char *name, const unsigned char *data, size_t len)
{
    _cleanup_free_ unsigned char *text = malloc(len / 3 * 4 + 8);

    if (!text)
        return;
    EVP_EncodeBlock(text, data, (int)len);
    cJSON_AddStringToObject(object, name, (char *)text);
}

static void add_time(cJSON *object, const char *name, const ASN1_TIME *t)
{
    char text[32] = "";
    struct tm tm;

    if (ASN1_TIME_to_tm(t, &tm))
        strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%SZ", &tm);
    cJSON_AddStringToObject(object, name, text);
}

static void add_certificate(cJSON *array, X509 *cert)
{
    cJSON *o = cJSON_CreateObject();
    BIGNUM *serial = ASN1_INTEGER_to_BN(X509_get0_serialNumber(cert), NULL);
    char *decimal = serial ? BN_bn2dec(serial) : NULL;
    BIO *bio = BIO_new(BIO_s_mem());
    char *data;

    if (bio && PEM_write_bio_X509(bio, cert)) {
        long n = BIO_get_mem_data(bio, &data);

        add_base64(o, "pem", (unsigned char *)data, (size_t)n);
    }
    cJSON_AddStringToObject(o, "serialNumber", decimal ? decimal : "");
    add_time(o, "validFrom", X509_get0_notBefore(cert));
    add_time(o, "expirationTime", X509_get0_notAfter(cert));
    cJSON_AddItemToArray(array, o);
    OPENSSL_free(decimal);
    BN_free(serial);
    BIO_free(bio);
}

static void add_all(cJSON *array, const char *pem)
{
    BIO *bio = BIO_new_mem_buf(pem, -1);
    X509 *cert;

    while (bio && (cert = PEM_read_bio_X509(bio, NULL, NULL, NULL))) {
        add_certificate(array, cert);
        X509_free(cert);
    }
    ERR_clear_error();
    BIO_free(bio);
}

cJSON *certificate_dump(const char *identity, const char *source, const struct certificate *c,
                        const char *error)
{
    cJSON *o = cJSON_CreateObject(), *chain, *roots;
    char state[240];

    snprintf(state, sizeof(state), c ? "Available" : *error ? "Unavailable: %s" : "Initializing", error);
    cJSON_AddStringToObject(o, "identity", identity);
    cJSON_AddStringToObject(o, "source", source);
    cJSON_AddStringToObject(o, "state", state);
    if (c && *error)
        cJSON_AddStringToObject(o, "error", error);
    chain = cJSON_AddArrayToObject(o, "certChain");
    roots = cJSON_AddArrayToObject(o, "rootCerts");
    if (c) {
        for (size_t i = 0; i < c->chain_len; i++)
            add_all(chain, c->chain[i]);
        add_all(roots, c->roots);
    }
    return o;
}
