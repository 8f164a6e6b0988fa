/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/admin/process_metrics.h"

#include <dirent.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "lib/cleanup.h"
#include "lib/metrics_text.h"
#include "lib/tls_policy.h"
#include "proxy/telemetry/text.h"

static void build(FILE *out)
{
    const char *tag = getenv("ISTIO_META_ISTIO_VERSION");
    char escaped[256];
    struct text text = {escaped, 0, sizeof(escaped)};

    text_escaped(&text, tag && *tag ? tag : "unknown", 64);
    metric_family(out, "istio_build", "gauge", "What is running.");
    fprintf(out, "istio_build{component=\"ztunnel\",tag=\"%.*s\"} 1\n", (int)text.len, escaped);
    metric_family(out, "bruma_build", "gauge", "Version of Bruma.");
    fputs("bruma_build{version=\"" BRUMA_VERSION "\"} 1\n", out);
    metric_family(out, "bruma_compliance", "gauge", "What TLS is limited to, and the module that does it.");
    fprintf(out, "bruma_compliance{policy=\"%s\",module=\"%s\"} 1\n",
            *tls_policy_name() ? tls_policy_name() : "none", tls_policy_module());
}

static void descriptors(FILE *out)
{
    struct rlimit limit;
    uint64_t count = 0;
    DIR *directory = opendir("/proc/self/fd");

    if (directory) {
        struct dirent *entry;

        while ((entry = readdir(directory)))
            count += entry->d_name[0] != '.';
        closedir(directory);
        /* The one that was needed for looking is gone. */
        metric_gauge(out, "process_open_fds", "File descriptors that are open.", count - 1);
    }
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0)
        metric_gauge(out, "process_max_fds", "Limit of open file descriptors.", limit.rlim_cur);
}

/* Seconds since the epoch at which the machine started, from the line "btime". */
static bool boot_time(uint64_t *ret)
{
    _cleanup_file_ FILE *f = fopen("/proc/stat", "re");
    _cleanup_free_ char *line = NULL;
    size_t size = 0;

    while (f && getline(&line, &size, f) > 0) {
        if (!strncmp(line, "btime ", 6)) {
            *ret = strtoull(line + 6, NULL, 10);
            return true;
        }
    }
    return false;
}

/* Fields of proc_pid_stat(5), after the name in parentheses. */
static bool own_stat(unsigned long long *ret_threads, unsigned long long *ret_start,
                     unsigned long long *ret_virtual, long long *ret_pages)
{
    _cleanup_file_ FILE *f = fopen("/proc/self/stat", "re");
    char line[1024];
    const char *at;

    if (!f || !fgets(line, sizeof(line), f))
        return false;
    at = strrchr(line, ')');
    return at &&
           sscanf(
               at + 1,
               " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d %llu %*d %llu %llu %lld",
               ret_threads, ret_start, ret_virtual, ret_pages) == 4;
}

static void memory_and_time(FILE *out)
{
    unsigned long long threads, start, size;
    long ticks = sysconf(_SC_CLK_TCK), page = sysconf(_SC_PAGESIZE);
    struct rusage usage;
    uint64_t boot;
    long long pages;

    if (getrusage(RUSAGE_SELF, &usage) == 0) {
        metric_family(out, "process_cpu_seconds", "counter", "Processor time, user and system.");
        fprintf(out, "process_cpu_seconds_total %lld.%06ld\n",
                (long long)usage.ru_utime.tv_sec + usage.ru_stime.tv_sec +
                    (usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1000000,
                (usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) % 1000000);
    }
    if (!own_stat(&threads, &start, &size, &pages) || ticks <= 0 || page <= 0)
        return;
    metric_gauge(out, "process_resident_memory_bytes", "Memory in use.", (uint64_t)pages * (uint64_t)page);
    metric_gauge(out, "process_virtual_memory_bytes", "Address space in use.", size);
    metric_gauge(out, "process_threads", "Threads.", threads);
    if (boot_time(&boot)) {
        metric_family(out, "process_start_time_seconds", "gauge",
                      "When the process started, since the epoch.");
        fprintf(out, "process_start_time_seconds %llu.%02llu\n",
                (unsigned long long)boot + start / (unsigned long long)ticks,
                start % (unsigned long long)ticks * 100 / (unsigned long long)ticks);
    }
}

void process_metrics_write(FILE *out)
{
    build(out);
    descriptors(out);
    memory_and_time(out);
}
