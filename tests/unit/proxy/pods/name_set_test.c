/* SPDX-License-Identifier: Apache-2.0 */
#include <criterion/criterion.h>
#include <stdio.h>

#include "proxy/pods/name_set.h"

Test(name_set, keeps_each_name_once)
{
    struct name_set set = {};
    char name[16];

    cr_expect(!name_set_has(&set, "a"));
    for (int round = 0; round < 2; round++) {
        for (int i = 0; i < 1000; i++) {
            snprintf(name, sizeof(name), "uid-%d", i * 7919 % 1000);
            cr_assert(name_set_add(&set, name) == 0);
        }
    }
    cr_expect(set.len == 1000);
    for (int i = 0; i < 1000; i += 2) {
        snprintf(name, sizeof(name), "uid-%d", i);
        name_set_remove(&set, name);
        name_set_remove(&set, name);
    }
    cr_expect(set.len == 500);
    for (int i = 0; i < 1000; i++) {
        snprintf(name, sizeof(name), "uid-%d", i);
        cr_expect(name_set_has(&set, name) == (i % 2 == 1), "%s", name);
    }
    name_set_clear(&set);
    cr_expect(set.len == 0 && !name_set_has(&set, "uid-1"));
}
