/* SPDX-License-Identifier: Apache-2.0 */
#include <criterion/criterion.h>
#include <pthread.h>
#include <stdatomic.h>

#include "proxy/direct/charge.h"

#define OLD   11
#define NEW   22
#define TURNS 20000

static struct bruma_direct_control word;

Test(charge, who_has_taken_it_renews_and_gives_back)
{
    word = (struct bruma_direct_control){};
    cr_expect(charge_take(&word, OLD, BRUMA_DIRECT_OUTSIDE, 0, 1000, BRUMA_LONG_WAY_NONE));
    cr_expect(charge_is_mine(&word, OLD));
    cr_expect_eq(word.valid_until_nanoseconds, 1000);
    cr_expect_eq(word.ways, BRUMA_DIRECT_OUTSIDE);
    cr_expect(charge_renew(&word, OLD, 2000));
    cr_expect_eq(word.valid_until_nanoseconds, 2000);
    cr_expect(charge_drop(&word, OLD, BRUMA_LONG_WAY_ENDING));
    cr_expect_eq(charge_holder(&word), 0);
    cr_expect_eq(word.why, BRUMA_LONG_WAY_ENDING);
    cr_expect_not(charge_renew(&word, OLD, 3000));
    cr_expect_eq(word.valid_until_nanoseconds, 2000);
}

Test(charge, who_is_deposed_changes_nothing)
{
    word = (struct bruma_direct_control){};
    cr_expect(charge_take(&word, OLD, BRUMA_DIRECT_OUTSIDE, 0, 1000, BRUMA_LONG_WAY_NONE));
    cr_expect(charge_take(&word, NEW, BRUMA_DIRECT_PASS, 3, 2000, BRUMA_LONG_WAY_SWITCHED_OFF));
    cr_expect_not(charge_renew(&word, OLD, 9000));
    cr_expect_not(charge_drop(&word, OLD, BRUMA_LONG_WAY_ENDING));
    charge_set_prefixes(&word, OLD, 0);
    cr_expect(charge_is_mine(&word, NEW));
    cr_expect_eq(word.valid_until_nanoseconds, 2000);
    cr_expect_eq(word.why, BRUMA_LONG_WAY_SWITCHED_OFF);
    cr_expect_eq(word.ways, BRUMA_DIRECT_PASS);
    cr_expect_eq(word.prefixes, 3);
}

Test(charge, prefixes_once_there_are_always_looked_at)
{
    word = (struct bruma_direct_control){};
    cr_expect(charge_take(&word, OLD, 0, 0, 1, BRUMA_LONG_WAY_NONE));
    charge_set_prefixes(&word, OLD, 0);
    cr_expect_eq(word.prefixes, 0);
    charge_set_prefixes(&word, OLD, 2);
    charge_set_prefixes(&word, OLD, 0);
    cr_expect_eq(word.prefixes, 2);
    cr_expect(charge_take(&word, NEW, 0, 0, 1, BRUMA_LONG_WAY_NONE));
    cr_expect_eq(word.prefixes, 2);
}

static atomic_bool over;

static void *old_one(void *data)
{
    for (uint64_t i = 1; !atomic_load(&over); i++) {
        charge_renew(&word, OLD, i % 100);
        charge_set_prefixes(&word, OLD, i % 3);
        if (i % 16 == 0)
            charge_drop(&word, OLD, BRUMA_LONG_WAY_ENDING);
    }
    return data;
}

/* Beside one that does not know yet that it is deposed. */
Test(charge, a_late_word_of_the_old_one_does_no_harm, .timeout = 60)
{
    pthread_t thread;

    word = (struct bruma_direct_control){};
    cr_assert_eq(pthread_create(&thread, NULL, old_one, NULL), 0);
    for (uint64_t i = 0; i < TURNS; i++) {
        charge_take(&word, OLD, 0, 0, 1, BRUMA_LONG_WAY_NONE);
        cr_assert(charge_take(&word, NEW, BRUMA_DIRECT_OUTSIDE, 5, 1000 + i, BRUMA_LONG_WAY_NONE));
        cr_assert(charge_is_mine(&word, NEW));
        /* what it had read before is not there any more */
        cr_assert_eq(__atomic_load_n(&word.valid_until_nanoseconds, __ATOMIC_SEQ_CST), 1000 + i);
        cr_assert(charge_renew(&word, NEW, 5000 + i));
        cr_assert_eq(__atomic_load_n(&word.valid_until_nanoseconds, __ATOMIC_SEQ_CST), 5000 + i);
        cr_assert(__atomic_load_n(&word.prefixes, __ATOMIC_SEQ_CST) > 0);
    }
    atomic_store(&over, true);
    pthread_join(thread, NULL);
    cr_expect(charge_is_mine(&word, NEW));
}
