/* SPDX-License-Identifier: Apache-2.0 */
#include "lib/spiffe.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

static const char scheme[] = "spiffe://";

/* Takes the text up to the next '/' (or the end, for the last part). Empty parts are refused. */
static int next_part(const char **at, const char *end, int last, const char **part, size_t *len)
{
    const char *slash = memchr(*at, '/', (size_t)(end - *at));

    if (last ? slash != NULL : slash == NULL)
        return -EINVAL;
    *part = *at;
    *len = (size_t)((slash ? slash : end) - *at);
    *at = slash ? slash + 1 : end;
    return *len ? 0 : -EINVAL;
}

int spiffe_parse(const char *uri, size_t len, struct spiffe *ret)
{
    const char *at = uri, *end = uri + len, *word;
    struct spiffe s;
    size_t word_len;

    if (len >= SPIFFE_MAX || len < sizeof(scheme) || memcmp(uri, scheme, sizeof(scheme) - 1) != 0 ||
        memchr(uri, '\0', len))
        return -EINVAL;
    at += sizeof(scheme) - 1;
    if (next_part(&at, end, 0, &s.trust_domain, &s.trust_domain_len) < 0 ||
        next_part(&at, end, 0, &word, &word_len) < 0 || word_len != 2 || memcmp(word, "ns", 2) != 0 ||
        next_part(&at, end, 0, &s.namespace, &s.namespace_len) < 0 ||
        next_part(&at, end, 0, &word, &word_len) < 0 || word_len != 2 || memcmp(word, "sa", 2) != 0 ||
        next_part(&at, end, 1, &s.service_account, &s.service_account_len) < 0)
        return -EINVAL;
    *ret = s;
    return 0;
}

int spiffe_format(char *buf, size_t size, const char *trust_domain, const char *namespace,
                  const char *service_account)
{
    int n = snprintf(buf, size, "%s%s/ns/%s/sa/%s", scheme, trust_domain, namespace, service_account);

    return n < 0 || (size_t)n >= size ? -ENAMETOOLONG : n;
}
