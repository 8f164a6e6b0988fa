/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/handover/pauses.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#define MILLISECOND UINT64_C(1000000)

/* At least so long. */
static void add(struct pauses *p, uint64_t milliseconds)
{
    pauses_add(p, pauses_now() - milliseconds * MILLISECOND);
}

static char *written(const struct pauses *p)
{
    char *text = NULL;
    size_t len;
    FILE *out = open_memstream(&text, &len);

    pauses_write(p, out);
    cr_assert(fclose(out) == 0);
    return text;
}

Test(pauses, one_of_a_hundred_may_be_longer)
{
    struct pauses p = {}, all = {};

    for (int i = 0; i < 99; i++)
        add(&p, 3);
    add(&p, 300);
    cr_assert(p.count == 100 && p.max >= 300000 && p.sum >= 99 * 3000 + 300000);
    cr_expect(pauses_of_most(&p) == 5000);
    add(&p, 300);
    cr_expect(pauses_of_most(&p) >= 300000);
    pauses_merge(&all, &p);
    pauses_merge(&all, &p);
    cr_expect(all.count == 202 && all.sum == 2 * p.sum && all.max == p.max);
}

Test(pauses, longest_where_it_is_below_its_buckets_end)
{
    struct pauses p = {};

    cr_expect(pauses_of_most(&p) == 0);
    add(&p, 60);
    cr_expect(pauses_of_most(&p) == p.max && p.max < 100000);
}

/* A unit of a release that did not tell, of another clock. */
Test(pauses, what_cannot_be_is_not_counted)
{
    struct pauses p = {};
    char *text;

    pauses_add(&p, 0);
    pauses_add(&p, pauses_now() + 1000 * MILLISECOND);
    pauses_add(&p, 1);
    cr_expect(p.count == 0);
    text = written(&p);
    cr_expect_str_empty(text);
    free(text);
}

Test(pauses, histogram)
{
    struct pauses p = {};
    char *text;

    add(&p, 3);
    add(&p, 30);
    add(&p, 2000);
    text = written(&p);
    cr_expect(strstr(text, "# TYPE bruma_handed_over_pause_seconds histogram\n"), "%s", text);
    cr_expect(strstr(text, "_bucket{le=\"0.002\"} 0\n") && strstr(text, "_bucket{le=\"0.005\"} 1\n") &&
                  strstr(text, "_bucket{le=\"0.05\"} 2\n") && strstr(text, "_bucket{le=\"1.0\"} 2\n") &&
                  strstr(text, "_bucket{le=\"+Inf\"} 3\n") && strstr(text, "_seconds_sum 2.03") &&
                  strstr(text, "_seconds_count 3\n"),
              "%s", text);
    free(text);
}
