/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/admin/process_metrics.h"

#include <criterion/criterion.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

static char *text(void)
{
    static char *buf; /* not on the stack: the compiler takes the stream for a pointer to it */
    static size_t len;
    FILE *out = open_memstream(&buf, &len);

    process_metrics_write(out);
    fclose(out);
    return buf;
}

static double value(const char *name)
{
    char *all = text(), line[128], *at;
    double v = -1;

    snprintf(line, sizeof(line), "\n%s ", name);
    at = strstr(all, line);
    cr_expect(at != NULL, "%s", name);
    if (at)
        v = strtod(at + strlen(line), NULL);
    free(all);
    return v;
}

Test(process_metrics, descriptors)
{
    struct rlimit limit;
    double before = value("process_open_fds");
    int fd = open("/dev/null", O_RDONLY);

    cr_expect(value("process_open_fds") == before + 1);
    close(fd);
    cr_assert(getrlimit(RLIMIT_NOFILE, &limit) == 0);
    cr_expect(value("process_max_fds") == (double)limit.rlim_cur);
}

Test(process_metrics, memory_and_time)
{
    double start = value("process_start_time_seconds"), resident = value("process_resident_memory_bytes");

    cr_expect(resident > 100000 && resident < value("process_virtual_memory_bytes"));
    cr_expect(value("process_cpu_seconds_total") >= 0);
    cr_expect(value("process_threads") >= 1);
    cr_expect(start > (double)time(NULL) - 3600 && start < (double)time(NULL) + 60, "%f", start);
}

Test(process_metrics, build)
{
    char *all;

    unsetenv("ISTIO_META_ISTIO_VERSION");
    all = text();
    cr_expect(strstr(all, "istio_build{component=\"ztunnel\",tag=\"unknown\"} 1\n") != NULL);
    free(all);
    setenv("ISTIO_META_ISTIO_VERSION", "1.30\"\n", 1);
    all = text();
    cr_expect(strstr(all, "istio_build{component=\"ztunnel\",tag=\"1.30\\\"\\n\"} 1\n") != NULL);
    free(all);
}
