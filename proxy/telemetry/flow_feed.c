/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/telemetry/flow_feed.h"

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct feed_line {
    char *text;
    size_t len;
};

static struct {
    uint64_t until; /* relaxed atomic; 0: nobody has asked */
    pthread_mutex_t lock;
    struct feed_line
        lines[FLOW_FEED_LINES]; /* under the lock, as what follows: line n is at n % FLOW_FEED_LINES */
    uint64_t first, next;       /* numbers of lines, from 1 on */
    size_t bytes;
} feed = {.lock = PTHREAD_MUTEX_INITIALIZER, .first = 1, .next = 1};

bool flow_feed_wanted(uint64_t now)
{
    return now < __atomic_load_n(&feed.until, __ATOMIC_RELAXED);
}

static void drop_oldest(void)
{
    struct feed_line *line = &feed.lines[feed.first++ % FLOW_FEED_LINES];

    feed.bytes -= line->len;
    free(line->text);
    *line = (struct feed_line){};
}

void flow_feed_add(const char *line, size_t len)
{
    size_t n = len && line[len - 1] == '\n' ? len - 1 : len;
    char *copy = strndup(line, n);

    pthread_mutex_lock(&feed.lock);
    while (feed.next - feed.first == FLOW_FEED_LINES ||
           (feed.next > feed.first && feed.bytes + n > FLOW_FEED_BYTES))
        drop_oldest();
    /* Without memory its number is left out: it counts as an empty line. */
    feed.lines[feed.next++ % FLOW_FEED_LINES] = (struct feed_line){copy, copy ? n : 0};
    feed.bytes += copy ? n : 0;
    pthread_mutex_unlock(&feed.lock);
}

static void write_lines(uint64_t after, FILE *out)
{
    bool known = after && after <= feed.next;
    uint64_t from = !known ? feed.next : after > feed.first ? after : feed.first;
    const char *separator = "";

    fprintf(out, "{\"next\":%" PRIu64 ",\"lost\":%" PRIu64 ",\"lines\":[", feed.next,
            known ? from - after : 0);
    for (; from < feed.next; from++) {
        const struct feed_line *line = &feed.lines[from % FLOW_FEED_LINES];

        if (!line->text)
            continue;
        fputs(separator, out);
        fwrite(line->text, 1, line->len, out);
        separator = ",";
    }
    fputs("]}\n", out);
}

int flow_feed_read(uint64_t now, uint64_t after, char **ret, size_t *ret_len)
{
    char *text = NULL;
    size_t len;
    FILE *out = open_memstream(&text, &len);

    if (!out)
        return -ENOMEM;
    __atomic_store_n(&feed.until, now + FLOW_FEED_IDLE, __ATOMIC_RELAXED);
    pthread_mutex_lock(&feed.lock);
    write_lines(after, out);
    pthread_mutex_unlock(&feed.lock);
    if (fclose(out) != 0) {
        free(text);
        return -ENOMEM;
    }
    *ret = text;
    *ret_len = len;
    return 0;
}

bool flow_feed_tidy(uint64_t now)
{
    if (flow_feed_wanted(now))
        return true;
    pthread_mutex_lock(&feed.lock);
    while (feed.first < feed.next)
        drop_oldest();
    pthread_mutex_unlock(&feed.lock);
    return false;
}
