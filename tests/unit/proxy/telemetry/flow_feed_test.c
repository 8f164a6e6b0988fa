/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/telemetry/flow_feed.h"

#include <criterion/criterion.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static uint64_t next;

/* What is there after the last question. */
static void expect(uint64_t now, uint64_t lost, const char *lines)
{
    char *text, expected[400], *rest;
    size_t len;

    cr_assert_eq(flow_feed_read(now, next, &text, &len), 0);
    cr_assert_eq(len, strlen(text));
    cr_assert_eq(strncmp(text, "{\"next\":", 8), 0);
    next = strtoull(text + 8, &rest, 10);
    snprintf(expected, sizeof(expected), ",\"lost\":%llu,\"lines\":[%s]}\n", (unsigned long long)lost, lines);
    cr_expect_str_eq(rest, expected);
    free(text);
}

static void add(const char *line)
{
    flow_feed_add(line, strlen(line));
}

Test(flow_feed, lines_after_the_last_question)
{
    cr_expect(!flow_feed_wanted(1000));
    expect(1000, 0, "");
    cr_expect(flow_feed_wanted(1000) && flow_feed_wanted(1000 + FLOW_FEED_IDLE - 1));
    cr_expect(!flow_feed_wanted(1000 + FLOW_FEED_IDLE));
    add("{\"a\":1}\n");
    add("{\"b\":2}\n");
    expect(2000, 0, "{\"a\":1},{\"b\":2}");
    expect(2000, 0, "");
    add("{}\n");
    next--; /* who asks for what it has had gets it again */
    expect(2000, 0, "{\"b\":2},{}");
    next = 1000000; /* of another process */
    expect(2000, 0, "");
}

Test(flow_feed, too_many_lines)
{
    char *text;
    size_t len;

    expect(1, 0, "");
    for (unsigned i = 0; i < FLOW_FEED_LINES + 10; i++)
        add("1\n");
    cr_assert_eq(flow_feed_read(1, next, &text, &len), 0);
    cr_expect(strstr(text, "\"lost\":10,\"lines\":[1,1,") != NULL, "%.60s", text);
    free(text);
}

Test(flow_feed, too_many_bytes)
{
    char *line = malloc(100001), *text;
    size_t len;

    memset(line, '7', 100000);
    line[100000] = '\0';
    expect(1, 0, "");
    for (int i = 0; i < 20; i++)
        add(line);
    cr_assert_eq(flow_feed_read(1, next, &text, &len), 0);
    cr_expect(len < FLOW_FEED_BYTES + 100 && len > FLOW_FEED_BYTES / 2);
    cr_expect(strstr(text, "\"lost\":10,") != NULL, "%.60s", text);
    free(text);
    free(line);
}

Test(flow_feed, nothing_is_kept_for_nobody)
{
    expect(1000, 0, "");
    add("1\n");
    cr_expect(flow_feed_tidy(1000));
    expect(1000, 0, "1");
    add("2\n");
    cr_expect(!flow_feed_tidy(1000 + FLOW_FEED_IDLE));
    expect(20000, 1, "");
}

static void *add_many(void *data)
{
    for (int i = 0; i < 5000; i++)
        add(data);
    return NULL;
}

Test(flow_feed, several_threads)
{
    static char line[] = "{}\n";
    pthread_t threads[3];
    char *text;
    size_t len;

    expect(1, 0, "");
    for (int i = 0; i < 3; i++)
        cr_assert_eq(pthread_create(&threads[i], NULL, add_many, line), 0);
    for (int i = 0; i < 100; i++) {
        cr_assert_eq(flow_feed_read(1, next, &text, &len), 0);
        free(text);
    }
    for (int i = 0; i < 3; i++)
        pthread_join(threads[i], NULL);
    cr_assert_eq(flow_feed_read(1, next, &text, &len), 0);
    cr_expect(strstr(text, "{\"next\":15001,") != NULL, "%.40s", text);
    free(text);
}
