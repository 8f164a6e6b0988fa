/* SPDX-License-Identifier: Apache-2.0 */
/* Short slices of the processor, as the kernel says what they are. */
#include <criterion/criterion.h>
#include <linux/sched/types.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "lib/slice.h"

static unsigned long long runtime(void)
{
    struct sched_attr attr = {.size = sizeof(attr)};

    cr_assert(syscall(SYS_sched_getattr, 0, &attr, sizeof(attr), 0) == 0);
    cr_expect_eq(attr.sched_policy, 0);
    return attr.sched_runtime;
}

/* Linux before 6.12 says 0, and has none. */
Test(slice, are_short_until_they_are_not)
{
    unsigned long long before = runtime();

    slice_short(true);
    cr_expect(before ? runtime() == 100000 : !runtime(), "%llu, then %llu", before, runtime());
    slice_short(false);
    cr_expect_eq(runtime(), before);
}
