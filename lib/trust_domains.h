/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Trust domains that count as one: a mesh's own and those that it had before (trustDomainAliases of Istio's
 * mesh configuration). An identity in one of them is the same identity in another.
 */
#ifndef LIB_TRUST_DOMAINS_H
#define LIB_TRUST_DOMAINS_H

#include <stdbool.h>
#include <stddef.h>

#define TRUST_DOMAINS_MAX 32 /* names */

/* Read-only once parsed. All zero: there are none. */
struct trust_domains {
    char *text; /* owned; the names are in it */
    const char *names[TRUST_DOMAINS_MAX];
    size_t len;
};

/* list: names with commas (and spaces) between them. 0; -EINVAL for one that no trust domain can have, or too
 * many of them; -ENOMEM. */
int trust_domains_parse(const char *list, struct trust_domains *ret);
/* Frees and empties it; harmless where all is zero. */
void trust_domains_free(struct trust_domains *aliases);

/* Whether a and b are one trust domain, in a mesh whose own is `own`: equal, or both of them its own or an
 * alias. aliases: may be NULL. */
bool trust_domains_same(const struct trust_domains *aliases, const char *own, const char *a, size_t a_len,
                        const char *b, size_t b_len);
/* The same of whole identities (SPIFFE URIs): equal but for the trust domain, and that is one. */
bool trust_domains_same_identity(const struct trust_domains *aliases, const char *own, const char *a,
                                 const char *b);

#endif
