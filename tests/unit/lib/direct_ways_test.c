/* SPDX-License-Identifier: Apache-2.0 */
#include <criterion/criterion.h>
#include <errno.h>

#include "lib/direct_ways.h"

Test(direct_ways, names)
{
    enum same_node way;

    for (enum same_node s = SAME_NODE_HBONE; s <= SAME_NODE_KERNEL; s++)
        cr_expect(same_node_parse(same_node_name(s), &way) == 0 && way == s);
    cr_expect_str_eq(same_node_name(SAME_NODE_UNSAID), "");
    cr_expect(same_node_parse("", &way) == -EINVAL);
    cr_expect(same_node_parse("HBONE", &way) == -EINVAL);
    cr_expect(same_node_parse(" relay", &way) == -EINVAL);
}

Test(direct_ways, the_longer_one_counts)
{
    for (enum same_node a = SAME_NODE_UNSAID; a <= SAME_NODE_KERNEL; a++) {
        cr_expect(same_node_longer(a, SAME_NODE_UNSAID) == a);
        cr_expect(same_node_longer(SAME_NODE_UNSAID, a) == a);
        cr_expect(same_node_longer(a, SAME_NODE_KERNEL) == (a ? a : SAME_NODE_KERNEL));
        cr_expect(same_node_longer(SAME_NODE_HBONE, a) == SAME_NODE_HBONE);
    }
}

Test(direct_ways, a_pod_before_its_namespace)
{
    struct direct_switches pod = {.outside = DIRECT_ON, .same_node = SAME_NODE_RELAY},
                           namespace = {.outside = DIRECT_OFF,
                                        .inbound = DIRECT_OFF,
                                        .same_node = SAME_NODE_HBONE},
                           both = direct_switches_join(pod, namespace);

    cr_expect(both.outside == DIRECT_ON && both.inbound == DIRECT_OFF && both.same_node == SAME_NODE_RELAY);
    cr_expect(direct_switches_equal(direct_switches_join((struct direct_switches){0}, namespace), namespace));
    cr_expect(direct_switches_equal(pod, pod) && !direct_switches_equal(pod, namespace));
    cr_expect(!direct_switches_equal(pod, both), "inbound");
}
