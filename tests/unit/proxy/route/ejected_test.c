/* SPDX-License-Identifier: Apache-2.0 */
/* Endpoints that have failed: how long they are out, and how many of them are known. */
#include "proxy/route/ejected.h"

#include <criterion/criterion.h>

#define REFUSED BRUMA_REASON_CONNECT_REFUSED

static struct ejected ejected;

static struct endpoint endpoint(uint32_t number, uint16_t port)
{
    struct endpoint e = {.port = port};

    memcpy(e.addr.bytes + 12, &number, sizeof(number));
    return e;
}

/* Milliseconds that it is out from now on. */
static uint64_t out_for(const struct endpoint *e, uint64_t now)
{
    uint64_t n = 0;

    while (ejected_has(&ejected, e, now + n))
        n++;
    return n;
}

Test(ejected, is_out_for_a_moment_and_comes_back)
{
    struct endpoint e = endpoint(7, 80), other = endpoint(7, 81), another = endpoint(8, 80);

    cr_expect(!ejected_has(&ejected, &e, 5000));
    cr_expect(ejected_add(&ejected, &e, 5000, 1000, REFUSED));
    cr_expect(out_for(&e, 5000) == 1000);
    cr_expect(!ejected_has(&ejected, &other, 5000) && !ejected_has(&ejected, &another, 5000));
}

Test(ejected, is_out_for_longer_each_time_up_to_a_limit)
{
    static const uint64_t times[] = {1000, 2000, 4000, 8000, 16000, 30000, 30000};
    struct endpoint e = endpoint(7, 80);
    uint64_t now = 5000;

    for (size_t i = 0; i < sizeof(times) / sizeof(times[0]); i++) {
        cr_expect(ejected_add(&ejected, &e, now, 1000, REFUSED));
        cr_expect(out_for(&e, now) == times[i], "%d", (int)i);
        now += times[i] + 100;
    }
}

Test(ejected, a_setting_above_the_limit_is_kept)
{
    struct endpoint e = endpoint(7, 80);

    ejected_add(&ejected, &e, 5000, 40000, REFUSED);
    cr_expect(out_for(&e, 5000) == 40000);
    ejected_add(&ejected, &e, 46000, 40000, REFUSED);
    cr_expect(out_for(&e, 46000) == 40000);
}

Test(ejected, failures_of_the_same_moment_count_once)
{
    struct endpoint e = endpoint(7, 80);

    cr_expect(ejected_add(&ejected, &e, 5000, 1000, REFUSED));
    for (int i = 0; i < 10; i++)
        cr_expect(!ejected_add(&ejected, &e, 5500, 1000, REFUSED));
    cr_expect(out_for(&e, 5000) == 1000);
}

Test(ejected, what_is_long_ago_is_forgotten)
{
    struct endpoint e = endpoint(7, 80);

    ejected_add(&ejected, &e, 5000, 1000, REFUSED);
    ejected_add(&ejected, &e, 6000 + EJECTED_TIME_MAX, 1000, REFUSED);
    cr_expect(out_for(&e, 6000 + EJECTED_TIME_MAX) == 1000);
}

Test(ejected, one_that_serves_is_in_at_once_and_begins_anew)
{
    struct endpoint e = endpoint(7, 80);

    ejected_add(&ejected, &e, 5000, 1000, REFUSED);
    ejected_forget(&ejected, &e);
    cr_expect(!ejected_has(&ejected, &e, 5000));
    ejected_forget(&ejected, &e);
    ejected_add(&ejected, &e, 5100, 1000, REFUSED);
    cr_expect(out_for(&e, 5100) == 1000);
}

Test(ejected, a_host_is_none_of_its_endpoints)
{
    struct endpoint e = endpoint(7, 80), host = ejected_host(&e.addr), other = endpoint(8, 80);

    cr_expect(ejected_add(&ejected, &host, 5000, 1000, REFUSED));
    cr_expect(ejected_has(&ejected, &host, 5000) && !ejected_has(&ejected, &e, 5000));
    cr_expect(ejected_count(&ejected, 5000) == 1 && ejected_count(&ejected, 6000) == 0);
    host = ejected_host(&other.addr);
    cr_expect(!ejected_has(&ejected, &host, 5000));
}

Test(ejected, no_time_and_no_endpoint_are_none)
{
    struct endpoint e = endpoint(7, 80), none = endpoint(7, 0);

    cr_expect(!ejected_add(&ejected, &e, 5000, 0, REFUSED) && !ejected_has(&ejected, &e, 5000));
    cr_expect(!ejected_add(&ejected, &none, 5000, 1000, REFUSED) && !ejected_has(&ejected, &none, 5000));
}

/* What is known is bounded; the newest of it is kept. */
Test(ejected, many)
{
    unsigned out = 0;

    for (uint32_t i = 0; i < 5000; i++) {
        struct endpoint e = endpoint(i * 2654435761u, (uint16_t)(1 + i % 60000));

        cr_expect(ejected_add(&ejected, &e, 5000 + i, 10000, REFUSED));
        cr_expect(ejected_has(&ejected, &e, 5000 + i));
    }
    for (uint32_t i = 0; i < 5000; i++) {
        struct endpoint e = endpoint(i * 2654435761u, (uint16_t)(1 + i % 60000));

        out += ejected_has(&ejected, &e, 10000);
    }
    cr_expect(out > 200 && out <= 256, "%u", out);
}
