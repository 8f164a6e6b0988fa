/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/telemetry/trace.h"

#include <criterion/criterion.h>
#include <string.h>

#include "proxy/otlp/otlp_queue.h"
#include "proxy/telemetry/tracing.h"

#define TRACE "4bf92f3577b34da6a3ce929d0e0e4736"
#define SPAN  "00f067aa0ba902b7"
#define GOOD  "00-" TRACE "-" SPAN "-01"
#define ALL   (UINT64_C(1) << 56)

static struct trace_parent parent;

static bool readable(const char *text)
{
    return trace_parent_read(text, strlen(text), &parent);
}

Test(trace, a_parent)
{
    cr_assert(readable(GOOD));
    cr_expect_eq(parent.high, 0x4bf92f3577b34da6);
    cr_expect_eq(parent.low, 0xa3ce929d0e0e4736);
    cr_expect_eq(parent.span, 0x00f067aa0ba902b7);
    cr_expect(parent.sampled);
    cr_assert(readable("00-" TRACE "-" SPAN "-fe"));
    cr_expect(!parent.sampled);
    cr_expect(readable("01-" TRACE "-" SPAN "-01-what comes later"));
    cr_expect(readable("fe-" TRACE "-" SPAN "-01"));
}

Test(trace, no_parent)
{
    static const char *const all[] = {
        "",
        "00",
        GOOD "-",
        GOOD "1",
        "01-" TRACE "-" SPAN "-01x",
        "ff-" TRACE "-" SPAN "-01",
        "0x-" TRACE "-" SPAN "-01",
        "00_" TRACE "-" SPAN "-01",
        "00-" TRACE "_" SPAN "-01",
        "00-" TRACE "-" SPAN "_01",
        "00-" TRACE "-" SPAN "-0g",
        "00-" TRACE "-0000000000000000-01",
        "00-00000000000000000000000000000000-" SPAN "-01",
        "00-4BF92f3577b34da6a3ce929d0e0e4736-" SPAN "-01",
        "00-4bf92f3577b34da6a3ce929d0e0e473-" SPAN "-011",
    };

    for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++)
        cr_expect(!readable(all[i]), "%s", all[i]);
    for (size_t len = 0; len < strlen(GOOD); len++)
        cr_expect(!trace_parent_read(GOOD, len, &parent));
}

Test(trace, there_and_back)
{
    const struct trace trace = {1, 0xfedcba9876543210, 3, 4};
    char text[TRACE_TEXT_LEN + 1];
    struct trace back;
    uint8_t id[8];

    trace_parent_write(&trace, true, text);
    cr_expect_str_eq(text, "00-0000000000000001fedcba9876543210-0000000000000003-01");
    trace_parent_write(&trace, false, text);
    cr_expect_str_eq(text + TRACEPARENT_LEN - 3, "-00");
    trace_write(&trace, text);
    cr_assert(trace_read(text, &back));
    cr_expect(!memcmp(&trace, &back, sizeof(trace)));
    for (size_t i = 0; i < TRACE_TEXT_LEN; i++) {
        char changed[TRACE_TEXT_LEN + 1];

        strcpy(changed, text);
        changed[i] = 'x';
        cr_expect(!trace_read(changed, &back), "%s", changed);
        changed[i] = '\0';
        cr_expect(!trace_read(changed, &back), "%s", changed);
    }
    trace_id_bytes(trace.low, id);
    cr_expect(id[0] == 0xfe && id[7] == 0x10);
}

/* ---- which have a span ---- */

static struct otlp_queue *queue;
static struct tracing tracing;

static void make(void)
{
    cr_assert_eq(otlp_queue_new(1000, &queue), 0);
}

static void drop(void)
{
    otlp_queue_free(&queue);
}

TestSuite(tracing, .init = make, .fini = drop);

static void choose(bool follows_parent, uint64_t threshold)
{
    tracing_init(&tracing, queue, &(struct otlp_sampler){follows_parent, threshold});
}

static unsigned sampled(unsigned of, const struct trace_parent *from)
{
    unsigned n = 0;

    for (unsigned i = 0; i < of; i++) {
        struct flow flow = {};

        tracing_begin(&tracing, &flow, from);
        n += tracing_of(&flow) != NULL;
        tracing_begin(&tracing, &flow, NULL); /* decides nothing any more */
        tracing_end(&flow);
        cr_expect(!flow.trace);
    }
    return n;
}

Test(tracing, roots)
{
    choose(true, ALL);
    cr_expect_eq(sampled(100, NULL), 100);
    choose(true, 0);
    cr_expect_eq(sampled(100, NULL), 0);
    choose(false, ALL / 4);
    cr_expect(sampled(10000, NULL) > 2000 && sampled(10000, NULL) < 3000);
}

Test(tracing, children)
{
    struct trace_parent with = {1, 2, 3, true}, without = {1, 2, 3, false};
    struct flow flow = {};

    choose(true, 0);
    cr_expect_eq(sampled(10, &with), 10, "it follows");
    choose(true, ALL);
    cr_expect_eq(sampled(10, &without), 0);
    choose(false, ALL);
    cr_expect_eq(sampled(10, &without), 10, "it decides by itself");
    choose(false, ALL / 2);
    cr_expect_eq(sampled(10, &with), 0, "by the trace's ID, as everybody");
    with.low = ALL - 1;
    cr_expect_eq(sampled(10, &with), 10);
    tracing_begin(&tracing, &flow, &with);
    cr_expect(flow.trace->high == 1 && flow.trace->low == ALL - 1 && flow.trace->parent == 3);
    cr_expect(flow.trace->span && flow.trace->span != 3);
    parent = tracing_parent(&flow);
    cr_expect(parent.span == flow.trace->span && parent.sampled);
    tracing_end(&flow);
    cr_expect(!tracing_parent(&flow).sampled);
}

Test(tracing, off)
{
    struct flow flow = {};

    tracing_init(&tracing, NULL, &(struct otlp_sampler){true, ALL});
    tracing_begin(&tracing, &flow, NULL);
    cr_expect(!flow.trace && !tracing_of(&flow));
}
