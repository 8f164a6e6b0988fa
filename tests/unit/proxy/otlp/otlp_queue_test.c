/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/otlp/otlp_queue.h"

#include <criterion/criterion.h>
#include <pthread.h>
#include <string.h>
#include <unistd.h>

static struct otlp_queue *q;
static struct otlp_batch batch;
static struct otlp_queue_counts counts;

static void make(void)
{
    cr_assert_eq(otlp_queue_new(50, &q), 0);
}

static void drop(void)
{
    otlp_batch_clear(&batch);
    otlp_queue_free(&q);
    cr_expect_null(q);
}

TestSuite(otlp_queue, .init = make, .fini = drop, .timeout = 30);

static void put(size_t len, uint32_t items)
{
    otlp_queue_put(q, otlp_record_new(len, items));
}

Test(otlp_queue, gathers_for_a_while)
{
    uint64_t began = otlp_now();

    put(10, 1);
    put(20, 2);
    cr_assert(otlp_queue_take(q, &batch));
    cr_expect_geq(otlp_now() - began, 50);
    cr_expect(batch.records == 2 && batch.bytes == 30 && batch.items == 3);
    cr_expect(batch.first->len == 10 && batch.first->next->len == 20 && !batch.first->next->next);
    otlp_queue_count(q, &counts);
    cr_expect_eq(counts.queued, 0);
}

Test(otlp_queue, a_batch_is_bounded_by_records)
{
    for (unsigned i = 0; i < OTLP_BATCH_RECORDS + 1; i++)
        put(1, 1);
    cr_assert(otlp_queue_take(q, &batch));
    cr_expect_eq(batch.records, OTLP_BATCH_RECORDS);
    otlp_batch_clear(&batch);
    cr_assert(otlp_queue_take(q, &batch));
    cr_expect_eq(batch.records, 1);
}

Test(otlp_queue, a_batch_is_bounded_by_bytes)
{
    for (unsigned i = 0; i < 3; i++)
        put(OTLP_BATCH_BYTES / 2, 1);
    cr_assert(otlp_queue_take(q, &batch));
    cr_expect_eq(batch.records, 2);
    otlp_batch_clear(&batch);
    put(OTLP_BATCH_BYTES * 2, 1);
    cr_assert(otlp_queue_take(q, &batch));
    cr_expect_eq(batch.records, 1);
    otlp_batch_clear(&batch);
    cr_assert(otlp_queue_take(q, &batch));
    cr_expect(batch.records == 1 && batch.bytes == OTLP_BATCH_BYTES * 2, "one is always taken");
}

Test(otlp_queue, is_bounded_by_records)
{
    for (unsigned i = 0; i < OTLP_QUEUE_RECORDS; i++)
        put(1, 1);
    put(1, 5);
    otlp_queue_put(q, NULL);
    otlp_queue_drop(q, 4, OTLP_DROP_GAVE_UP);
    otlp_queue_count(q, &counts);
    cr_expect_eq(counts.queued, OTLP_QUEUE_RECORDS);
    cr_expect_eq(counts.dropped[OTLP_DROP_FULL], 5);
    cr_expect_eq(counts.dropped[OTLP_DROP_MEMORY], 1);
    cr_expect_eq(counts.dropped[OTLP_DROP_GAVE_UP], 4);
    cr_assert(otlp_queue_take(q, &batch));
    put(1, 1);
    otlp_queue_count(q, &counts);
    cr_expect_eq(counts.dropped[OTLP_DROP_FULL], 5, "there is room again");
}

Test(otlp_queue, is_bounded_by_bytes)
{
    for (unsigned i = 0; i < 9; i++)
        put(OTLP_QUEUE_BYTES / 8, 1);
    otlp_queue_count(q, &counts);
    cr_expect(counts.queued == 8 && counts.dropped[OTLP_DROP_FULL] == 1);
}

Test(otlp_queue, a_newer_one_replaces_what_waits)
{
    otlp_queue_replace(q, otlp_record_new(1, 10));
    otlp_queue_replace(q, otlp_record_new(2, 20));
    cr_assert(otlp_queue_take(q, &batch));
    cr_expect(batch.records == 1 && batch.items == 20);
    otlp_queue_count(q, &counts);
    cr_expect_eq(counts.dropped[OTLP_DROP_REPLACED], 10);
    put(3, 1);
    otlp_batch_clear(&batch);
    cr_assert(otlp_queue_take(q, &batch));
    cr_expect_eq(batch.bytes, 3);
}

Test(otlp_queue, ends_once_it_is_empty)
{
    uint64_t began;

    for (unsigned i = 0; i < OTLP_BATCH_RECORDS + 1; i++)
        put(1, 1);
    cr_expect_eq(otlp_queue_left(q), UINT64_MAX);
    otlp_queue_end(q, 200);
    cr_expect(otlp_queue_left(q) > 0 && otlp_queue_left(q) <= 200);
    began = otlp_now();
    cr_assert(otlp_queue_take(q, &batch));
    otlp_batch_clear(&batch);
    cr_assert(otlp_queue_take(q, &batch));
    cr_expect_eq(batch.records, 1);
    cr_expect(!otlp_queue_take(q, &batch));
    cr_expect_lt(otlp_now() - began, 50, "without the delay");
    otlp_queue_pause(q, 10000);
    cr_expect_lt(otlp_now() - began, 5000, "no longer than is left");
    cr_expect_eq(otlp_queue_left(q), 0);
}

static void *end_soon(void *data)
{
    (void)data;
    usleep(100 * 1000);
    otlp_queue_end(q, 0);
    return NULL;
}

Test(otlp_queue, the_end_wakes_who_waits)
{
    pthread_t thread;

    cr_assert_eq(pthread_create(&thread, NULL, end_soon, NULL), 0);
    cr_expect(!otlp_queue_take(q, &batch));
    pthread_join(thread, NULL);
}

Test(otlp_queue, the_end_ends_a_pause)
{
    uint64_t began = otlp_now();
    pthread_t thread;

    cr_assert_eq(pthread_create(&thread, NULL, end_soon, NULL), 0);
    otlp_queue_pause(q, 20000);
    cr_expect_lt(otlp_now() - began, 10000);
    pthread_join(thread, NULL);
}

static void *put_many(void *data)
{
    (void)data;
    for (unsigned i = 0; i < 10000; i++)
        put(8, 1);
    return NULL;
}

Test(otlp_queue, nothing_is_lost_between_threads)
{
    pthread_t threads[4];
    uint64_t items = 0;

    for (unsigned i = 0; i < 4; i++)
        cr_assert_eq(pthread_create(&threads[i], NULL, put_many, NULL), 0);
    for (;;) {
        otlp_queue_count(q, &counts);
        if (items + counts.dropped[OTLP_DROP_FULL] == 40000)
            break;
        cr_assert(otlp_queue_take(q, &batch));
        items += batch.items;
        otlp_batch_clear(&batch);
    }
    for (unsigned i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
}

Test(otlp_queue, every_reason_has_a_name)
{
    for (int i = 0; i < OTLP_DROPS; i++) {
        cr_assert_str_not_empty(otlp_drop_name((enum otlp_drop)i));
        for (int k = 0; k < i; k++)
            cr_expect_str_neq(otlp_drop_name((enum otlp_drop)i), otlp_drop_name((enum otlp_drop)k));
    }
}
