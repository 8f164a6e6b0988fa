/* SPDX-License-Identifier: Apache-2.0 */
/* Where an identity's files are; what is in them is tested end to end. */
#include "proxy/identity/file_source.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>

#define WEB "spiffe://near.domain/ns/shop/sa/web"

static char path[64];

static int directory(const char *pattern, const char *uri)
{
    return file_source_directory(pattern, uri, path, sizeof(path));
}

Test(file_source, a_directory_for_each_identity)
{
    cr_expect(directory("/run/{trust-domain}/{namespace}/{account}", WEB) == 0);
    cr_expect_str_eq(path, "/run/near.domain/shop/web");
    cr_expect(directory("/run/one", WEB) == 0);
    cr_expect_str_eq(path, "/run/one");
    cr_expect(directory("/{account}{account}/{name}{", WEB) == 0);
    cr_expect_str_eq(path, "/webweb/{name}{", "what is no part stays");
}

Test(file_source, no_name_leads_elsewhere)
{
    static const char pattern[] = "/run/{trust-domain}/{namespace}/{account}";

    cr_expect(directory(pattern, "spiffe://near.domain/ns/shop/sa/..") == -EINVAL);
    cr_expect(directory(pattern, "spiffe://near.domain/ns/./sa/web") == -EINVAL);
    cr_expect(directory(pattern, "spiffe://../ns/shop/sa/web") == -EINVAL);
    cr_expect(directory(pattern, "spiffe://near.domain/ns/shop/sa/.hidden") == -EINVAL);
    cr_expect(directory(pattern, "spiffe://near.domain/ns/shop/sa/a/../../b") == -EINVAL);
    cr_expect(directory(pattern, "web") == -EINVAL);
}

Test(file_source, a_name_that_is_too_long)
{
    char uri[200] = "spiffe://near.domain/ns/shop/sa/";

    memset(uri + strlen(uri), 'a', 100);
    cr_expect(directory("/{account}", uri) == -ENAMETOOLONG);
    cr_expect(directory("/0123456789012345678901234567890123456789012345678901234567890123", WEB) ==
              -ENAMETOOLONG);
}
