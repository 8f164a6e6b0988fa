/* SPDX-License-Identifier: Apache-2.0 */
/* Clock, latency histogram and CPU time for the bench's tools. */
#ifndef BENCH_MEASURE_H
#define BENCH_MEASURE_H

#include <netinet/in.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#define NANOSECONDS 1000000000ull

uint64_t clock_nanoseconds(void);
/* User and system time of this process, seconds. */
double own_cpu_seconds(void);
/* Soft limit of file descriptors up to the hard one. */
void raise_descriptor_limit(void);
/* Prints "NAME: WHAT: errno text" and exits with 1. */
void fail(const char *what) __attribute__((noreturn));
/* The address or a fatal error. */
struct sockaddr_in endpoint_of(const char *address, int port);
/* A number between the limits, or a fatal error that names the option. */
double number_of(char option, const char *text, double minimum, double maximum);

/* Nanoseconds, in 128 linear steps for each power of two: values are right within 0.8 %. */
#define HISTOGRAM_STEPS   128
#define HISTOGRAM_BUCKETS (59 * HISTOGRAM_STEPS)

struct histogram {
    uint64_t count, sum, greatest;
    uint32_t buckets[HISTOGRAM_BUCKETS];
};

void histogram_add(struct histogram *h, uint64_t nanoseconds);
void histogram_merge(struct histogram *into, const struct histogram *from);
/* fraction 0.5 is the median. Microseconds. */
double histogram_quantile(const struct histogram *h, double fraction);
/* Members "mean_us", "p50_us", "p90_us", "p99_us", "p999_us", "max_us" of a JSON object. */
void histogram_print_json(const struct histogram *h);

#endif
