/* SPDX-License-Identifier: Apache-2.0 */
#include <criterion/criterion.h>

#include "lib/rpc/http_accept.h"

static bool gzip(const char *text)
{
    return http_accepts_gzip(text);
}

Test(http_accept, gzip)
{
    cr_expect(gzip("gzip"));
    cr_expect(gzip("deflate, GZIP;q=0.5 , br"));
    cr_expect(gzip("*"));
    cr_expect(gzip("br;q=1, *;q=0.1"));
    cr_expect(!gzip(""));
    cr_expect(!gzip("identity"));
    cr_expect(!gzip("gzip;q=0"));
    cr_expect(!gzip("gzip; q=0.000, *"));
    cr_expect(!gzip("xgzip, gzipx"));
    cr_expect(!http_accepts_gzip(NULL));
}

Test(http_accept, lists)
{
    bool listed;

    cr_expect(http_accepts("text/plain;q=0.5, application/openmetrics-text;version=1.0.0",
                           "application/openmetrics-text", NULL));
    cr_expect(!http_accepts("a;q=0", "a", &listed) && listed);
    cr_expect(!http_accepts("a;x=1; q=0.00", "a", &listed) && listed);
    cr_expect(http_accepts("a;q=0.001", "a", NULL));
    cr_expect(!http_accepts("ab, ;q=1,,", "a", &listed) && !listed);
    cr_expect(!http_accepts(NULL, "a", &listed) && !listed);
}
