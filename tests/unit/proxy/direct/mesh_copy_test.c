/* SPDX-License-Identifier: Apache-2.0 */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>

#include "proxy/direct/mesh_copy.h"
#include "proxy/state/rcu.h"
#include "proxy/state/reclaim.h"
#include "tests/unit/proxy/direct/fake_maps.h"
#include "tests/unit/proxy/mesh_samples.h"

#define NUMBER 77

static struct fake_maps maps;
static struct mesh_copy copy;
static struct state *state;
static struct loop *loop;
static int completes, incompletes, error;
static size_t announced;
static const char *found_when_incomplete;

static void on_complete(void *data)
{
    (void)data;
    completes++;
    loop_stop(loop);
}

static const char *whose(const char *address)
{
    struct addr addr = sample_addr(address);
    const struct workload *w = state_workload_by_address(state, &addr);

    return w ? w->name : "nobody";
}

static void on_incomplete(void *data, int r)
{
    (void)data;
    incompletes++;
    error = r;
    found_when_incomplete = whose("10.0.0.2");
    loop_stop(loop);
}

static void on_prefixes(void *data, size_t entries)
{
    (void)data;
    announced = entries;
}

static void start(void)
{
    const struct mesh_copy_events events = {
        .complete = on_complete, .incomplete = on_incomplete, .prefixes = on_prefixes};

    reader_register();
    reader_offline();
    cr_assert_eq(loop_new(&loop), 0);
    state = sample_state();
    fake_maps_init(&maps);
    mesh_copy_init(&copy, loop, state, &maps.ops, NUMBER, &events);
}

static void end(void)
{
    mesh_copy_close(&copy);
    state_free(&state);
    fake_maps_free(&maps);
    loop_free(&loop);
    reclaim_wait();
    reader_unregister();
}

static bool there(const char *address)
{
    struct addr addr = sample_addr(address);

    return fake_maps_has_mesh(&maps, NUMBER, &addr);
}

static void stop_if_gone(struct loop_timer *timer)
{
    if (fake_maps_len(&maps, BRUMA_DIRECT_FD_ADDRESSES) + fake_maps_len(&maps, BRUMA_DIRECT_FD_PREFIXES) == 0)
        loop_stop(loop);
    else
        loop_timer_set(loop, timer, 10);
}

static void run_until_empty(void)
{
    struct loop_timer timer;

    loop_timer_init(&timer, stop_if_gone);
    loop_timer_set(loop, &timer, 0);
    cr_assert_eq(loop_run(loop), 0);
}

TestSuite(mesh_copy, .init = start, .fini = end, .timeout = 30);

Test(mesh_copy, all_at_first_then_each_change)
{
    char name[16], address[16];

    for (int i = 0; i < 200; i++) {
        snprintf(name, sizeof(name), "w%d", i);
        snprintf(address, sizeof(address), "10.1.0.%d", i);
        WORKLOAD(state, .name = name, .addresses = {address});
    }
    copy.per_turn = 30;
    mesh_copy_start(&copy);
    cr_expect_not(there("10.1.0.199"));
    /* one that comes while the maps are being filled */
    WORKLOAD(state, .name = "late", .addresses = {"10.0.0.9"});
    cr_assert_eq(loop_run(loop), 0);
    cr_expect_eq(completes, 1);
    cr_expect_eq(mesh_copy_addresses(&copy), 201);
    cr_expect(there("10.1.0.199") && there("10.0.0.9"));
    /* from now on at once */
    WORKLOAD(state, .name = "now", .addresses = {"10.0.0.1"});
    cr_expect(there("10.0.0.1"));
    cr_expect_eq(announced, 0);
    SERVICE(state, .name = "range", .addresses = {"240.0.0.0/8"});
    cr_expect(there("240.1.2.3"));
    cr_expect_eq(announced, 1);
    mesh_copy_stop(&copy);
    run_until_empty();
    cr_expect_eq(copy.phase, MESH_COPY_NONE);
    /* nobody follows it any more */
    WORKLOAD(state, .name = "other", .addresses = {"10.0.0.2"});
    cr_expect_not(there("10.0.0.2"));
    mesh_copy_start(&copy);
    cr_assert_eq(loop_run(loop), 0);
    cr_expect(there("10.0.0.2") && there("240.1.2.3"));
}

Test(mesh_copy, what_goes_is_removed)
{
    WORKLOAD(state, .name = "w", .addresses = {"10.0.0.1"});
    SERVICE(state, .name = "s", .addresses = {"10.0.0.1", "240.0.0.0/8"});
    mesh_copy_start(&copy);
    cr_assert_eq(loop_run(loop), 0);
    cr_expect_eq(mesh_copy_addresses(&copy), 1);
    cr_expect_eq(mesh_copy_prefixes(&copy), 1);
    state_remove(state, STATE_ADDRESS, "Kubernetes//Pod/shop/w");
    state_commit(state);
    cr_expect(there("10.0.0.1"));
    state_remove(state, STATE_ADDRESS, "shop/s.shop.svc.cluster.local");
    state_commit(state);
    cr_expect(there("10.0.0.1"), "readers may see it still");
    run_until_empty();
    cr_expect_eq(mesh_copy_addresses(&copy) + mesh_copy_prefixes(&copy), 0);
}

Test(mesh_copy, a_full_map_is_told_before_anybody_finds_what_is_missing)
{
    WORKLOAD(state, .name = "one", .addresses = {"10.0.0.1"});
    maps.maps[BRUMA_DIRECT_FD_ADDRESSES].max = 1;
    mesh_copy_start(&copy);
    cr_assert_eq(loop_run(loop), 0);
    cr_expect_eq(copy.phase, MESH_COPY_COMPLETE);
    copy.retry_after = 20;
    WORKLOAD(state, .name = "two", .addresses = {"10.0.0.2"});
    cr_expect_eq(incompletes, 1);
    cr_expect_eq(error, -E2BIG);
    cr_expect_str_eq(found_when_incomplete, "nobody");
    cr_expect_str_eq(whose("10.0.0.2"), "two");
    cr_expect_eq(copy.phase, MESH_COPY_FAILED);
    /* tried again in vain, later each time */
    cr_assert_eq(loop_run(loop), 0);
    cr_assert_eq(loop_run(loop), 0);
    cr_expect_geq(incompletes, 2);
    cr_expect_geq(copy.retry_after, 40);
    cr_expect_geq(copy.rebuilds, 1);
    maps.maps[BRUMA_DIRECT_FD_ADDRESSES].max = 2;
    while (copy.phase != MESH_COPY_COMPLETE)
        cr_assert_eq(loop_run(loop), 0);
    cr_expect_eq(completes, 2);
    cr_expect(there("10.0.0.1") && there("10.0.0.2"));
}

Test(mesh_copy, it_recovers_when_others_make_room)
{
    uint64_t other = 5;
    struct bruma_mesh_key key = {.proxy = other};
    struct bruma_mesh_objects value = {.objects = 1};

    maps.maps[BRUMA_DIRECT_FD_ADDRESSES].max = 1;
    cr_assert_eq(maps.ops.update(&maps, BRUMA_DIRECT_FD_ADDRESSES, &key, &value), 0);
    WORKLOAD(state, .name = "one", .addresses = {"10.0.0.1"});
    copy.retry_after = 20;
    mesh_copy_start(&copy);
    cr_assert_eq(loop_run(loop), 0);
    cr_expect_eq(copy.phase, MESH_COPY_FAILED);
    cr_assert_eq(maps.ops.erase(&maps, BRUMA_DIRECT_FD_ADDRESSES, &key), 0);
    while (copy.phase != MESH_COPY_COMPLETE)
        cr_assert_eq(loop_run(loop), 0);
    cr_expect(there("10.0.0.1"));
}
