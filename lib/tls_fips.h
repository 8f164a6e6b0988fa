/* SPDX-License-Identifier: Apache-2.0 */
/* OpenSSL's FIPS provider as the only source of cryptography of this process. */
#ifndef LIB_TLS_FIPS_H
#define LIB_TLS_FIPS_H

#include <stddef.h>

/* Loads it, has it test itself, and sees to it that nothing else is used; before the first thread and key.
 * config: a file as openssl fipsinstall makes it; "": OpenSSL's own configuration has the provider's section.
 * 0, or -EINVAL with a sentence in error. */
int tls_fips_load(const char *config, char *error, size_t error_size);
/* Its name and version, as it says them; "" before. A static text, never NULL. */
const char *tls_fips_module(void);

#endif
