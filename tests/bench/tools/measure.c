/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/bench/tools/measure.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

uint64_t clock_nanoseconds(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * NANOSECONDS + (uint64_t)t.tv_nsec;
}

static double seconds_of(const struct timeval *t)
{
    return (double)t->tv_sec + (double)t->tv_usec / 1e6;
}

double own_cpu_seconds(void)
{
    struct rusage usage;

    getrusage(RUSAGE_SELF, &usage);
    return seconds_of(&usage.ru_utime) + seconds_of(&usage.ru_stime);
}

void raise_descriptor_limit(void)
{
    struct rlimit limit;

    if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
        limit.rlim_cur = limit.rlim_max;
        setrlimit(RLIMIT_NOFILE, &limit);
    }
}

void fail(const char *what)
{
    fprintf(stderr, "%s: %s: %s\n", program_invocation_short_name, what, strerror(errno));
    exit(1);
}

struct sockaddr_in endpoint_of(const char *address, int port)
{
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};

    if (inet_pton(AF_INET, address, &to.sin_addr) != 1) {
        errno = EINVAL;
        fail(address);
    }
    return to;
}

double number_of(char option, const char *text, double minimum, double maximum)
{
    char *end;
    double value = strtod(text, &end);

    if (end == text || *end || !(value >= minimum && value <= maximum)) {
        fprintf(stderr, "%s: -%c %s: not a number from %g to %g\n", program_invocation_short_name, option,
                text, minimum, maximum);
        exit(2);
    }
    return value;
}

/* Values below HISTOGRAM_STEPS have a bucket each; above, each power of two has HISTOGRAM_STEPS buckets. */
static unsigned bucket_of(uint64_t value)
{
    unsigned power, bucket;

    if (value < HISTOGRAM_STEPS)
        return (unsigned)value;
    power = 63u - (unsigned)__builtin_clzll(value);
    bucket = (power - 6) * HISTOGRAM_STEPS + (unsigned)((value >> (power - 7)) % HISTOGRAM_STEPS);
    return bucket < HISTOGRAM_BUCKETS ? bucket : HISTOGRAM_BUCKETS - 1;
}

static uint64_t value_of(unsigned bucket)
{
    unsigned power = bucket / HISTOGRAM_STEPS + 6;

    if (bucket < HISTOGRAM_STEPS)
        return bucket;
    return (uint64_t)(HISTOGRAM_STEPS + bucket % HISTOGRAM_STEPS) << (power - 7);
}

void histogram_add(struct histogram *h, uint64_t nanoseconds)
{
    h->buckets[bucket_of(nanoseconds)]++;
    h->count++;
    h->sum += nanoseconds;
    if (nanoseconds > h->greatest)
        h->greatest = nanoseconds;
}

void histogram_merge(struct histogram *into, const struct histogram *from)
{
    for (unsigned i = 0; i < HISTOGRAM_BUCKETS; i++)
        into->buckets[i] += from->buckets[i];
    into->count += from->count;
    into->sum += from->sum;
    if (from->greatest > into->greatest)
        into->greatest = from->greatest;
}

double histogram_quantile(const struct histogram *h, double fraction)
{
    uint64_t wanted = (uint64_t)(fraction * (double)h->count + 0.5), seen = 0;

    for (unsigned i = 0; i < HISTOGRAM_BUCKETS; i++) {
        seen += h->buckets[i];
        if (seen && seen >= wanted)
            return (double)value_of(i) / 1e3;
    }
    return 0;
}

void histogram_print_json(const struct histogram *h)
{
    double mean = h->count ? (double)h->sum / (double)h->count / 1e3 : 0;

    printf(
        "\"mean_us\":%.1f,\"p50_us\":%.1f,\"p90_us\":%.1f,\"p99_us\":%.1f,\"p999_us\":%.1f,\"max_us\":%.1f",
        mean, histogram_quantile(h, 0.50), histogram_quantile(h, 0.90), histogram_quantile(h, 0.99),
        histogram_quantile(h, 0.999), (double)h->greatest / 1e3);
}
