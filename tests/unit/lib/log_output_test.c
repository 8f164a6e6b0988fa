/* SPDX-License-Identifier: Apache-2.0 */
#include "lib/log_output.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define LOG_SCOPE "test"
#include "lib/log.h"
#include "lib/log_fd.h"

#define LINES 20000

struct reader {
    int fd;
    char *text;
    size_t len, size;
};

/* Until the end or a second of silence. */
static void read_all(struct reader *r)
{
    struct pollfd p = {.fd = r->fd, .events = POLLIN};

    r->size = 8 << 20;
    if (!r->text)
        r->text = malloc(r->size);
    cr_assert_not_null(r->text);
    while (poll(&p, 1, 1000) == 1 && r->len < r->size - 1) {
        ssize_t n = read(r->fd, r->text + r->len, r->size - 1 - r->len);

        if (n <= 0)
            break;
        r->len += (size_t)n;
    }
    r->text[r->len] = '\0';
}

static size_t count_whole(const struct reader *r, const char *what)
{
    size_t n = 0;

    for (char *line = r->text, *end; (end = strchr(line, '\n')); line = end + 1)
        n += memmem(line, (size_t)(end - line), what, strlen(what)) != NULL;
    return n;
}

static void fill(void)
{
    for (int i = 0; i < LINES; i++)
        log_info("line %06d %s", i, "................................................................");
}

static void check_unread(int reading, int writing)
{
    struct reader reader = {.fd = reading};
    char want[64];
    uint64_t dropped;

    log_setup(writing, false);
    fill(); /* would never return */
    dropped = log_output_dropped();
    cr_assert(dropped > 0 && dropped < LINES, "%lu", (unsigned long)dropped);
    read_all(&reader);
    cr_expect(count_whole(&reader, "line ") == LINES - dropped, "%zu of %d", count_whole(&reader, "line "),
              LINES);
    snprintf(want, sizeof(want), "lines=%lu reason=log_not_read", (unsigned long)dropped);
    cr_expect(count_whole(&reader, want) == 1, "it is not told once");
    /* and goes on */
    log_info("afterwards");
    reader.len = 0;
    read_all(&reader);
    cr_expect(count_whole(&reader, "afterwards") == 1);
    cr_expect(log_output_dropped() == dropped);
    free(reader.text);
}

Test(log_output, a_pipe_that_nobody_reads_holds_nobody_up, .timeout = 60)
{
    int fds[2];

    cr_assert(pipe(fds) == 0);
    check_unread(fds[0], fds[1]);
    cr_expect(!(fcntl(fds[1], F_GETFL) & O_NONBLOCK), "the description is shared with others");
}

Test(log_output, nor_does_a_socket, .timeout = 60)
{
    int fds[2];

    cr_assert(socketpair(AF_UNIX, SOCK_STREAM, 0, fds) == 0);
    check_unread(fds[0], fds[1]);
}

Test(log_output, a_line_is_there_when_the_call_returns)
{
    char buf[512];
    int fds[2];
    ssize_t n;

    cr_assert(pipe(fds) == 0);
    log_setup(fds[1], false);
    log_info("now");
    n = read(fds[0], buf, sizeof(buf) - 1);
    cr_assert(n > 0);
    buf[n] = '\0';
    cr_expect(strstr(buf, "\tnow\n"));
}

Test(log_output, a_reader_that_has_gone_is_no_reason_to_keep_anything)
{
    int fds[2];

    signal(SIGPIPE, SIG_IGN);
    cr_assert(pipe(fds) == 0);
    log_setup(fds[1], false);
    close(fds[0]);
    log_info("to nobody");
    cr_expect(log_output_dropped() == 1);
}

static void *many(void *data)
{
    for (int i = 0; i < 2000; i++)
        log_info("thread %ld line %05d %s", (long)data, i, "................................");
    return NULL;
}

Test(log_output, lines_of_several_threads_stay_whole, .timeout = 60)
{
    struct reader reader;
    pthread_t threads[4];
    int fds[2];

    cr_assert(socketpair(AF_UNIX, SOCK_STREAM, 0, fds) == 0);
    log_setup(fds[1], false);
    for (long i = 0; i < 4; i++)
        pthread_create(&threads[i], NULL, many, (void *)i);
    for (int i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    reader = (struct reader){.fd = fds[0]};
    read_all(&reader);
    cr_expect(count_whole(&reader, "................................") + log_output_dropped() == 8000);
    for (char *line = reader.text, *end; (end = strchr(line, '\n')); line = end + 1)
        cr_assert(end - line > 28 && line[4] == '-', "%.*s", (int)(end - line), line);
    free(reader.text);
}

Test(log_output, the_end_of_the_process_does_not_wait_for_ever, .timeout = 20)
{
    int fds[2];

    cr_assert(pipe(fds) == 0);
    log_setup(fds[1], false);
    fill();
    log_output_flush(300);
}
