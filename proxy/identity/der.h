/* SPDX-License-Identifier: Apache-2.0 */
/* Certificates and keys as SPIFFE's APIs have them: DER, one certificate behind the other. */
#ifndef PROXY_IDENTITY_DER_H
#define PROXY_IDENTITY_DER_H

#include <openssl/evp.h>
#include <openssl/x509.h>
#include <stddef.h>
#include <stdint.h>

/* Adds them to all, which may hold some: at least one, and nothing else behind them. 0; -E2BIG, where all
 * would have more than max certificates; -EBADMSG; -ENOMEM. What is wrong is in error, and some may have been
 * added. */
int der_certificates(const uint8_t *der, size_t len, int max, STACK_OF(X509) * all, char *error,
                     size_t error_size);
/* One PKCS#8 key that is not encrypted. The caller frees *ret. 0; -EBADMSG with what is wrong in error. */
int der_key(const uint8_t *der, size_t len, EVP_PKEY **ret, char *error, size_t error_size);
/* The same certificates as PEM text, the caller's; NULL without memory. */
char *certificates_pem(const STACK_OF(X509) * all);

#endif
