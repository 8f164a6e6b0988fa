/* SPDX-License-Identifier: Apache-2.0 */
/* SPIFFE identities of the mesh: spiffe://<trust domain>/ns/<namespace>/sa/<service account>. */
#ifndef LIB_SPIFFE_H
#define LIB_SPIFFE_H

#include <stddef.h>

#define SPIFFE_MAX 512 /* bytes of a whole URI, with the NUL; longer ones are not identities */

/* Parts point into the parsed text and are not NUL-terminated. */
struct spiffe {
    const char *trust_domain, *namespace, *service_account;
    size_t trust_domain_len, namespace_len, service_account_len;
};

/* Exactly five parts, none of them empty. 0 or -EINVAL. */
int spiffe_parse(const char *uri, size_t len, struct spiffe *ret);

/* Writes the URI; -ENAMETOOLONG if it does not fit, else its length. */
int spiffe_format(char *buf, size_t size, const char *trust_domain, const char *namespace,
                  const char *service_account);

#endif
