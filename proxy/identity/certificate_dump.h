/* SPDX-License-Identifier: Apache-2.0 */
/* One identity in the config dump (contract 9.3, "certificates"). */
#ifndef PROXY_IDENTITY_CERTIFICATE_DUMP_H
#define PROXY_IDENTITY_CERTIFICATE_DUMP_H

#include <cjson/cJSON.h>

#include "proxy/identity/certificate.h"

/* An object that the caller owns; NULL without memory. source: by its name; certificate: NULL while there is
 * none; error: why there is none, or no newer one ("": not asked yet, or nothing is wrong). */
cJSON *certificate_dump(const char *identity, const char *source, const struct certificate *certificate,
                        const char *error);

#endif
