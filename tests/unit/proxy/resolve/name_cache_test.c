/* SPDX-License-Identifier: Apache-2.0 */
/* What is remembered of hostnames, for how long, and how many. Time is the caller's. */
#include "proxy/resolve/name_cache.h"

#include <criterion/criterion.h>
#include <stdio.h>

static struct name_cache *cache;

static void setup(void)
{
    cr_assert_eq(name_cache_new(4, &cache), 0);
}

static void teardown(void)
{
    name_cache_free(&cache);
}

TestSuite(name_cache, .init = setup, .fini = teardown);

static const struct name_answer good = {.len = 1, .addresses = {{{[10] = 0xff, 0xff, 192, 0, 2, 1}}}};

/* How long an answer that comes at 5,000 ms is good for. */
static uint64_t kept(enum bruma_reason reason, uint32_t ttl)
{
    struct name_entry *e = name_cache_get(cache, "a");
    struct name_answer answer = good;
    uint64_t now = 5000;

    answer.reason = reason;
    name_entry_answer(e, &answer, ttl, now);
    while (name_entry_good(e, now))
        now += 500;
    cr_expect(!name_entry_good(e, now) && !name_entry_good(e, now + 1000000));
    return now - 5000;
}

Test(name_cache, the_time_to_live_has_a_floor_and_a_cap)
{
    cr_expect_eq(kept(BRUMA_REASON_NONE, 0), NAME_TTL_MIN * 1000);
    cr_expect_eq(kept(BRUMA_REASON_NONE, 30), 30000);
    cr_expect_eq(kept(BRUMA_REASON_NONE, NAME_TTL_MAX + 1), NAME_TTL_MAX * 1000);
    cr_expect_eq(kept(BRUMA_REASON_NONE, UINT32_MAX), NAME_TTL_MAX * 1000);
}

Test(name_cache, failures_are_kept_briefly_whatever_their_time)
{
    cr_expect_eq(kept(BRUMA_REASON_NAME_NOT_FOUND, 3000), NAME_NOT_FOUND_TTL * 1000);
    cr_expect_eq(kept(BRUMA_REASON_NAME_TIMEOUT, 3000), NAME_FAILURE_TTL * 1000);
    cr_expect_eq(kept(BRUMA_REASON_NAME_SERVER_FAILED, 0), NAME_FAILURE_TTL * 1000);
}

Test(name_cache, a_new_entry_has_no_answer)
{
    struct name_entry *e = name_cache_get(cache, "new");

    cr_expect(!name_entry_good(e, 0) && !e->asking);
    cr_expect_eq(name_cache_get(cache, "new"), e);
    cr_expect_neq(name_cache_get(cache, "New"), e);
    cr_expect_eq(name_cache_len(cache), 2);
}

Test(name_cache, a_new_name_takes_the_place_of_the_longest_unused)
{
    name_cache_get(cache, "a");
    for (const char *const *n = (const char *const[]){"b", "c", "d", NULL}; *n; n++)
        name_entry_answer(name_cache_get(cache, *n), &good, 60, 0);
    name_entry_answer(name_cache_get(cache, "a"), &good, 60, 0); /* and so b is the one */
    name_cache_get(cache, "e");
    cr_expect(name_cache_len(cache) == 4 && name_cache_replaced(cache) == 1);
    cr_expect(name_entry_good(name_cache_get(cache, "a"), 1));
    cr_expect(name_entry_good(name_cache_get(cache, "c"), 1));
    cr_expect(!name_entry_good(name_cache_get(cache, "b"), 1));
    cr_expect(name_cache_len(cache) == 4 && name_cache_replaced(cache) == 2);
}

Test(name_cache, to_peek_is_not_to_use)
{
    for (const char *const *n = (const char *const[]){"a", "b", "c", "d", NULL}; *n; n++)
        name_entry_answer(name_cache_get(cache, *n), &good, 60, 0);
    cr_expect_null(name_cache_peek(cache, "e"));
    cr_expect_eq(name_cache_len(cache), 4);
    cr_assert_not_null(name_cache_peek(cache, "a"));
    name_cache_get(cache, "e"); /* a is the longest unused all the same */
    cr_expect_null(name_cache_peek(cache, "a"));
}

Test(name_cache, what_is_being_asked_stays)
{
    struct name_entry *e[4];
    char name[8];

    for (int i = 0; i < 4; i++) {
        snprintf(name, sizeof(name), "n%d", i);
        e[i] = name_cache_get(cache, name);
        e[i]->asking = true;
    }
    cr_expect_null(name_cache_get(cache, "more"));
    cr_expect_eq(name_cache_get(cache, "n2"), e[2]);
    name_entry_answer(e[3], &good, 60, 0);
    cr_expect_not_null(name_cache_get(cache, "more"));
    cr_expect_eq(name_cache_get(cache, "n0"), e[0]);
    cr_expect(name_cache_len(cache) == 4 && name_cache_replaced(cache) == 1);
}
