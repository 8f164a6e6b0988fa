/* SPDX-License-Identifier: Apache-2.0 */
/* The process's memory: how much of it may hold what is buffered, and that the system gets back what is free.
 */
#define LOG_SCOPE "memory"
#include <inttypes.h>
#include <malloc.h>
#include <unistd.h>

#include "lib/cleanup.h"
#include "lib/log.h"
#include "lib/metrics_text.h"
#include "proxy/memory/cgroup_memory.h"
#include "proxy/memory/memory.h"
#include "proxy/proxy.h"

#define BUDGET_WITHOUT_LIMIT (256ul << 20)
#define LOOK_MILLISECONDS    2000
#define EXCESS_MIN           (8ul << 20)

static void on_look(struct loop_timer *timer);
static size_t unallocated(void);

/* ---- the budget ---- */

void memory_init(struct proxy *p)
{
    unsigned long limit = p->settings.memory_limit ? p->settings.memory_limit : cgroup_memory_limit();

    loop_timer_init(&p->memory_look, on_look);
    p->memory_kept = unallocated();
    p->memory.limit = p->settings.memory_budget ? p->settings.memory_budget
                      : limit                   ? limit / 4
                                                : BUDGET_WITHOUT_LIMIT;
    log_info("memory\tlimit=%lu budget=%zu pod_budget=%zu", limit, p->memory.limit, memory_pod_limit(p));
}

size_t memory_pod_limit(const struct proxy *p)
{
    size_t limit = p->settings.pod_memory_budget ? p->settings.pod_memory_budget : p->memory.limit / 2;

    return limit < p->memory.limit ? limit : p->memory.limit;
}

/* ---- what is free goes back ---- */

static size_t resident(void)
{
    _cleanup_file_ FILE *f = fopen("/proc/self/statm", "re");
    unsigned long size, pages;

    return f && fscanf(f, "%lu %lu", &size, &pages) == 2 ? pages * (size_t)sysconf(_SC_PAGESIZE) : 0;
}

/* Resident bytes that nobody has allocated: the program itself, stacks, and what the allocator keeps. */
static size_t unallocated(void)
{
    struct mallinfo2 m = mallinfo2();
    size_t in_use = m.uordblks + m.hblkhd, all = resident();

    return all > in_use ? all - in_use : 0;
}

/* The allocator keeps what was freed, for later; after a flood that would be for ever. It is asked to give
 * back where that is much more than it was after the last time. */
static void on_look(struct loop_timer *timer)
{
    struct proxy *p = container_of(timer, struct proxy, memory_look);
    size_t now = unallocated();

    atomic_store(&p->memory_freed, false);
    if (now < p->memory_kept)
        p->memory_kept = now;
    if (now - p->memory_kept < EXCESS_MIN)
        return;
    malloc_trim(0);
    p->memory_kept = unallocated();
    atomic_fetch_add(&p->memory_trims, 1);
    log_debug("memory was given back to the system\tbytes=%zu",
              now > p->memory_kept ? now - p->memory_kept : 0);
}

static void look_soon(void *data)
{
    struct proxy *p = data;

    loop_timer_set(p->loop, &p->memory_look, LOOK_MILLISECONDS);
}

void memory_was_freed(struct proxy *p)
{
    if (!atomic_load_explicit(&p->memory_freed, memory_order_relaxed) &&
        !atomic_exchange(&p->memory_freed, true))
        loop_post(p->loop, look_soon, p);
}

/* ---- metrics ---- */

void memory_write_metrics(struct proxy *p, FILE *out)
{
    unsigned long trims = atomic_load(&p->memory_trims);

    metric_gauge(out, "bruma_buffered_bytes", "Bytes buffered for slow readers.",
                 atomic_load(&p->memory.used));
    metric_gauge(out, "bruma_buffered_budget_bytes", "Limit of these bytes.", p->memory.limit);
    metric_gauge(
        out, "bruma_memory_pressure",
        "0: none; 1: no credit ahead of readers; 2: small windows; 3: the largest holders are closed.",
        budget_level(&p->memory, BUDGET_CALM));
    metric_counter(out, "bruma_memory_trims", "Times that free memory was given back to the system.", trims);
}
