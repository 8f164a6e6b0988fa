/* SPDX-License-Identifier: Apache-2.0 */
#include <criterion/criterion.h>

#include "agent/steer/steer.h"

static uint64_t age(uint64_t last_seconds, time_t now)
{
    const struct bruma_failure_count failure = {.count = 1,
                                                .last_seen_nanoseconds = last_seconds * 1000000000 + 1};
    const struct timespec at = {.tv_sec = now};

    return steer_failure_age(&failure, &at);
}

Test(failure_age, seconds_since_it_was_seen)
{
    cr_expect_eq(age(100, 100), 0);
    cr_expect_eq(age(100, 101), 1);
    cr_expect_eq(age(100, 4000), 3900);
}

Test(failure_age, one_that_comes_while_they_are_read_is_of_now)
{
    cr_expect_eq(age(101, 100), 0);
}
