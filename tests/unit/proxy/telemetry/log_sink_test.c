/* SPDX-License-Identifier: Apache-2.0 */
/* The access log's way out, whoever reads it. */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "lib/log.h"
#include "proxy/telemetry/log_sink.h"
#include "tests/unit/proxy/telemetry/telemetry_site.h"

TestSuite(log_sink, .init = telemetry_setup, .fini = telemetry_teardown);

static void close_one(void)
{
    struct flow flow = sample_flow();

    telemetry_open(t, &flow);
    telemetry_close(t, &flow, BRUMA_REASON_NONE, NULL);
}

static size_t count_lines(const char *text)
{
    size_t lines = 0;

    for (; *text; text++)
        lines += *text == '\n';
    return lines;
}

Test(log_sink, lines_are_gathered_and_written_soon)
{
    char *text;

    close_one();
    close_one();
    text = file_text(log_fd);
    cr_expect(!*text, "not yet");
    free(text);
    run_for(loop, 200);
    text = file_text(log_fd);
    cr_expect(count_lines(text) == 2, "%s", text);
    free(text);
}

Test(log_sink, much_is_written_at_once)
{
    char *text;

    for (int i = 0; i < 100; i++)
        close_one();
    text = file_text(log_fd);
    cr_expect(count_lines(text) > 20 && count_lines(text) < 100, "%zu", count_lines(text));
    free(text);
    telemetry_free(&t);
    text = file_text(log_fd);
    cr_expect(count_lines(text) == 100, "the rest at the end: %zu", count_lines(text));
    free(text);
}

Test(log_sink, levels)
{
    struct flow flow = sample_flow();
    char *text;

    log_set_filter("info,access=debug");
    telemetry_open(t, &flow);
    log_set_filter("error");
    telemetry_close(t, &flow, BRUMA_REASON_NONE, NULL);
    telemetry_early_deny(t, REPORTER_SOURCE, &flow.source_address, &flow.destination_address,
                         BRUMA_REASON_SELF_CALL, NULL);
    telemetry_open(t, &flow);
    telemetry_close(t, &flow, BRUMA_REASON_PEER_RESET, NULL);
    telemetry_free(&t);
    text = file_text(log_fd);
    cr_expect(count_lines(text) == 2, "%s", text);
    cr_expect(strstr(text, "\tdebug\taccess\tconnection opened\t") != NULL);
    cr_expect(strstr(text, "\terror\taccess\tconnection complete\t") != NULL);
    free(text);
}

static uint64_t dropped_by_metrics(void)
{
    char *text = metrics_text(&t, 1), *at = strstr(text, "bruma_access_log_dropped_lines_total ");
    uint64_t n = at ? strtoull(at + 37, NULL, 10) : 0;

    free(text);
    return n;
}

/* A reader that begins late, on the same loop. */
static struct {
    struct loop_watch watch;
    char *text;
    size_t len, lines, wanted;
} reader;

#define READER_SIZE (1u << 20)

static void on_readable(struct loop_watch *watch, uint32_t events)
{
    ssize_t n = read(watch->fd, reader.text + reader.len, READER_SIZE - 1 - reader.len);

    cr_assert(n > 0);
    for (ssize_t i = 0; i < n; i++)
        reader.lines += reader.text[reader.len + (size_t)i] == '\n';
    reader.len += (size_t)n;
    if (reader.lines >= reader.wanted)
        loop_stop(loop);
}

/* ends[0] reads, ends[1] is what is written to. */
static void blocked_reader(const int ends[2])
{
    size_t lines = 2000;
    uint64_t dropped;

    telemetry_free(&t);
    cr_assert(telemetry_new(loop, ends[1], false, &t) == 0);
    for (size_t i = 0; i < lines; i++)
        close_one(); /* must not block */
    dropped = dropped_by_metrics();
    cr_assert(dropped > 0 && dropped < lines, "%lu", (unsigned long)dropped);
    cr_expect(!(fcntl(ends[1], F_GETFL) & O_NONBLOCK), "the flags of the shared description are left alone");

    /* Now that somebody reads, all that was kept follows by itself. */
    reader.text = calloc(1, READER_SIZE);
    reader.wanted = lines - dropped;
    cr_assert(reader.text != NULL);
    cr_assert(loop_watch_add(loop, &reader.watch, ends[0], EPOLLIN, on_readable) == 0);
    run_for(loop, 10000);
    loop_watch_remove(loop, &reader.watch);
    cr_expect(reader.lines == lines - dropped, "%zu of %zu", reader.lines, lines - (size_t)dropped);
    cr_expect(dropped_by_metrics() == dropped);
    for (char *line = reader.text; *line; line = strchr(line, '\n') + 1) {
        cr_assert(!strncmp(line, "20", 2), "a line that is cut: %.40s", line);
        cr_assert(strchr(line, '\n') != NULL);
    }
    free(reader.text);
}

Test(log_sink, a_pipe_that_nobody_reads_costs_lines_and_no_time, .timeout = 30)
{
    int ends[2];

    cr_assert(pipe(ends) == 0);
    blocked_reader(ends);
    close(ends[0]);
    close(ends[1]);
}

/* As under a service manager. */
Test(log_sink, a_socket_that_nobody_reads, .timeout = 30)
{
    int ends[2];

    cr_assert(socketpair(AF_UNIX, SOCK_STREAM, 0, ends) == 0);
    blocked_reader(ends);
    close(ends[0]);
    close(ends[1]);
}

Test(log_sink, no_reader_at_all)
{
    int ends[2];

    cr_assert(pipe(ends) == 0);
    telemetry_free(&t);
    cr_assert(telemetry_new(loop, ends[1], false, &t) == 0);
    close(ends[0]);
    for (int i = 0; i < 100; i++)
        close_one();
    run_for(loop, 200);
    cr_expect(dropped_by_metrics() == 100, "%lu", (unsigned long)dropped_by_metrics());
    close(ends[1]);
}
