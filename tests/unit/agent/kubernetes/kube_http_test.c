/* SPDX-License-Identifier: Apache-2.0 */
/* How requests to the API server are written, and how long a failed one waits. */
#include <criterion/criterion.h>
#include <errno.h>

#include "agent/kubernetes/kube_http.h"

Test(kube_http, values_of_a_query)
{
    char url[32] = "/x?a=", small[8] = "/x?a=";

    cr_assert_eq(kube_append_encoded(url, sizeof(url), "n=1 &\xc3\xa4-._~"), 0);
    cr_expect_str_eq(url, "/x?a=n%3D1%20%26%C3%A4-._~");
    cr_expect_eq(kube_append_encoded(small, sizeof(small), "abc"), -ENAMETOOLONG);
}

Test(kube_http, waits_grow_and_differ)
{
    bool differ = false;

    for (unsigned tries = 0; tries < 100; tries++) {
        unsigned longest = tries < 6 ? 500u << tries : 30000, wait = kube_backoff(tries);

        cr_expect(wait >= longest / 2 && wait <= longest, "%u: %u", tries, wait);
        differ |= wait != kube_backoff(tries);
    }
    cr_expect(differ);
}
