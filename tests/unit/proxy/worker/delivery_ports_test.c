/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/worker/delivery_ports.h"

#include <criterion/criterion.h>

Test(delivery_ports, oldest_first_and_not_before_it_has_rested)
{
    struct delivery_ports p = {};

    cr_expect(delivery_ports_take(&p, 1000) == 0);
    delivery_ports_give(&p, 0, 1000);
    cr_expect(delivery_ports_take(&p, 2000) == 0, "0 is no port");
    delivery_ports_give(&p, 4001, 1000);
    delivery_ports_give(&p, 4002, 1050);
    cr_expect(delivery_ports_take(&p, 1099) == 0);
    cr_expect(delivery_ports_take(&p, 1100) == 4001);
    cr_expect(delivery_ports_take(&p, 1100) == 0);
    cr_expect(delivery_ports_take(&p, 1150) == 4002);
    cr_expect(delivery_ports_take(&p, 9999) == 0);
    delivery_ports_free(&p);
}

Test(delivery_ports, keeps_order_while_it_grows_and_wraps)
{
    struct delivery_ports p = {};
    uint64_t now = 0;
    uint16_t next = 1, expected = 1;

    for (int round = 0; round < 200; round++, now += 1000) {
        for (int i = 0; i < round; i++)
            delivery_ports_give(&p, next = (uint16_t)(next % 60000 + 1), now);
        for (int i = 0; i < round - round % 7; i++)
            cr_assert(delivery_ports_take(&p, now + 1000) == (expected = (uint16_t)(expected % 60000 + 1)));
    }
    delivery_ports_free(&p);
    cr_expect(delivery_ports_take(&p, now) == 0);
}

Test(delivery_ports, is_bounded)
{
    struct delivery_ports p = {};
    int taken = 0;

    for (int i = 0; i < 300000; i++)
        delivery_ports_give(&p, 4000, 0);
    while (delivery_ports_take(&p, 1000))
        taken++;
    cr_expect(taken == 65536, "%d", taken);
    delivery_ports_free(&p);
}
