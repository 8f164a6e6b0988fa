/* SPDX-License-Identifier: Apache-2.0 */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <unistd.h>

#include "lib/log.h"
#include "proxy/worker/pipes.h"

#define NOBODY 65534
#define ENOUGH 2000

static struct pipes pipes;

Test(pipes, there_are_none_at_first_and_few_are_kept)
{
    struct pipe all[PIPES_IDLE + 2];

    pipes_init(&pipes, PIPES_IDLE + 2);
    cr_expect(atomic_load(&pipes.open) == 0);
    for (size_t i = 0; i < PIPES_IDLE + 2; i++)
        cr_assert(pipes_take(&pipes, 0, &all[i]));
    cr_expect(atomic_load(&pipes.open) == PIPES_IDLE + 2);
    cr_expect(fcntl(all[0].in, F_GETPIPE_SZ) == PIPES_BYTES);
    cr_expect(fcntl(all[0].in, F_GETFL) & O_NONBLOCK && fcntl(all[0].in, F_GETFD) & FD_CLOEXEC);
    for (size_t i = 0; i < PIPES_IDLE + 2; i++) {
        pipes_give(&pipes, &all[i]);
        cr_expect(all[i].in == -1 && all[i].out == -1);
    }
    cr_expect(atomic_load(&pipes.open) == PIPES_IDLE && pipes.idle_len == PIPES_IDLE);
    pipes_destroy(&pipes);
    cr_expect(atomic_load(&pipes.open) == 0);
}

Test(pipes, one_with_bytes_in_it_is_not_kept)
{
    struct pipe pipe;

    pipes_init(&pipes, 1);
    cr_assert(pipes_take(&pipes, 0, &pipe) && write(pipe.in, "x", 1) == 1);
    pipes_discard(&pipes, &pipe);
    cr_expect(pipe.in == -1 && atomic_load(&pipes.open) == 0 && pipes.idle_len == 0);
    cr_assert(pipes_take(&pipes, 0, &pipe));
    cr_expect(read(pipe.out, &(char){0}, 1) == -1 && errno == EAGAIN);
    pipes_give(&pipes, &pipe);
    pipes_destroy(&pipes);
}

/* Once a user has so much in pipes as the system allows, further ones are of two pages, and may not grow. */
Test(pipes, small_ones_are_not_taken)
{
    static struct pipe all[ENOUGH];
    struct rlimit limit = {2 * ENOUGH + 100, 2 * ENOUGH + 100};
    FILE *f = fopen("/proc/sys/fs/pipe-user-pages-soft", "re");
    unsigned long pages = 0;
    size_t n = 0;

    cr_assert(f && fscanf(f, "%lu", &pages) == 1);
    fclose(f);
    if (!pages || pages > ENOUGH * 16)
        cr_skip("there is no such limit here, or a large one");
    log_set_filter("off");
    cr_assert(setrlimit(RLIMIT_NOFILE, &limit) == 0 && setuid(NOBODY) == 0, "this test needs root");
    pipes_init(&pipes, ENOUGH);
    while (n < ENOUGH && pipes_take(&pipes, 0, &all[n]))
        n++;
    cr_expect(n < ENOUGH && atomic_load(&pipes.open) == n, "%zu", n);
    cr_expect(atomic_load(&pipes.last_error) == EPERM && atomic_load(&pipes.copied) == 1);
    atomic_store(&pipes.last_error, 0);
    cr_expect(!pipes_take(&pipes, PIPES_REST - 1, &all[n]));
    cr_expect(atomic_load(&pipes.last_error) == 0, "the system is not asked so soon again");
    pipes_give(&pipes, &all[--n]);
    cr_expect(pipes_take(&pipes, 1, &all[n++]), "an idle one can be had at any time");
    while (n)
        pipes_discard(&pipes, &all[--n]);
    cr_expect(pipes_take(&pipes, PIPES_REST, &all[0]), "there are some again");
    pipes_discard(&pipes, &all[0]);
}
