/* SPDX-License-Identifier: Apache-2.0 */
#include <criterion/criterion.h>

#include "proxy/direct/sweep.h"
#include "tests/unit/proxy/direct/fake_maps.h"

#define OWN     1
#define LIVING  2
#define DEAD    3
#define ENTRIES 500

static struct fake_maps maps;

static void put(uint64_t number, unsigned i)
{
    struct bruma_mesh_key address = {.proxy = number, .address.bytes = {[12] = 10, [14] = i >> 8, [15] = i}};
    struct bruma_mesh_prefix prefix = {
        .proxy = number, .prefix_length = 96 + 120, .address = address.address};
    struct bruma_direct_pod pod = {.proxy = number};
    struct bruma_mesh_objects objects = {.objects = 1};
    uint64_t cookie = number * 100000 + i;

    prefix.address.bytes[15] = 0;
    prefix.address.bytes[13] = (__u8)i;
    cr_assert_eq(maps.ops.update(&maps, BRUMA_DIRECT_FD_ADDRESSES, &address, &objects), 0);
    cr_assert_eq(maps.ops.update(&maps, BRUMA_DIRECT_FD_PREFIXES, &prefix, &objects), 0);
    cr_assert_eq(maps.ops.update(&maps, BRUMA_DIRECT_FD_PODS, &cookie, &pod), 0);
}

static size_t all(void)
{
    return fake_maps_len(&maps, BRUMA_DIRECT_FD_ADDRESSES) + fake_maps_len(&maps, BRUMA_DIRECT_FD_PREFIXES) +
           fake_maps_len(&maps, BRUMA_DIRECT_FD_PODS);
}

Test(sweep, entries_of_the_dead_go_and_no_others, .timeout = 30)
{
    uint64_t living = LIVING, socket = 99;
    struct sweep sweep;
    struct loop *loop;
    size_t before;

    cr_assert_eq(loop_new(&loop), 0);
    fake_maps_init(&maps);
    cr_assert_eq(maps.ops.update(&maps, BRUMA_DIRECT_FD_PROXIES, &living, &socket), 0);
    for (unsigned i = 0; i < ENTRIES; i++) {
        put(OWN, i);
        put(LIVING, i);
    }
    before = all();
    for (unsigned i = 0; i < ENTRIES; i++) {
        put(DEAD, i);
        put(DEAD + 1 + i, i); /* more than are remembered */
    }
    sweep_init(&sweep, loop, &maps.ops, OWN);
    cr_expect_not(sweep_step(&sweep, 100), "nobody has begun");
    sweep_start(&sweep);
    cr_expect(sweep_step(&sweep, 10), "it is done in pieces");
    while (sweep_step(&sweep, 100))
        sweep.living = 0;
    cr_expect_eq(all(), before);
    sweep_stop(&sweep);
    fake_maps_free(&maps);
    loop_free(&loop);
}
