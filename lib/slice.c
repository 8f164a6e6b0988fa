/* SPDX-License-Identifier: Apache-2.0 */
#include "lib/slice.h"

#include <linux/sched.h>
#include <linux/sched/types.h>
#include <sys/syscall.h>
#include <unistd.h>

#define SHORT_NANOSECONDS 100000 /* the shortest that the kernel takes */

void slice_short(bool is_short)
{
    struct sched_attr attr = {.size = sizeof(attr)};

    if (syscall(SYS_sched_getattr, 0, &attr, sizeof(attr), 0) < 0 || attr.sched_policy != SCHED_NORMAL)
        return;
    attr.sched_runtime = is_short ? SHORT_NANOSECONDS : 0;
    (void)syscall(SYS_sched_setattr, 0, &attr, 0);
}
