/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/proxy/telemetry/telemetry_site.h"

#include <criterion/criterion.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

struct loop *loop;
struct telemetry *t;
int log_fd;

void telemetry_setup(void)
{
    signal(SIGPIPE, SIG_IGN);
    log_fd = memfd_create("log", MFD_CLOEXEC);
    cr_assert(log_fd >= 0);
    cr_assert(loop_new(&loop) == 0);
    cr_assert(telemetry_new(loop, log_fd, false, &t) == 0);
}

/* Also: everything that was referenced is given back. */
void telemetry_teardown(void)
{
    telemetry_free(&t);
    loop_free(&loop);
    close(log_fd);
    cr_expect(sample_cart.references == 1, "%d", sample_cart.references);
    cr_expect(sample_redis.references == 1, "%d", sample_redis.references);
    cr_expect(sample_service.references == 1, "%d", sample_service.references);
}

bool metrics_have(const char *text)
{
    char *have = metrics_text(&t, 1);
    bool found = strstr(have, text) != NULL;

    free(have);
    return found;
}

uint64_t series_held(void)
{
    struct metric_series_statistics s;

    metric_series_statistics(t->table, &s);
    return s.series;
}
