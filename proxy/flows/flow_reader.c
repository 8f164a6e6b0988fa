/* SPDX-License-Identifier: Apache-2.0 */
/* When events are read, and by which process. */
#define LOG_SCOPE "flows"
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/membarrier.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "lib/log.h"
#include "lib/seqpacket.h"
#include "proxy/flows/flows_internal.h"
#include "proxy/flows/sample.h"
#include "proxy/state/rcu.h"
#include "proxy/telemetry/metric_series.h"

#define LOOK_MILLISECONDS   10 /* between looks, as long as there are events */
#define LOCK_MILLISECONDS   50 /* between looks for the lock */
#define QUIET_LOOKS         16 /* without an event, then it sleeps */
#define EVENTS_A_TURN       2048
#define TURNS_TO_DRAIN      (4 * BRUMA_FLOW_RING / 128 / EVENTS_A_TURN)
#define SAMPLE_MILLISECONDS 250 /* between two samples */

static uint64_t nanoseconds(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* ---- the lock ---- */

/* Held by an open file, which ends with the process however that ends. What the file holds: up to which lost
 * event it was said that there were some. */
static int take_lock(struct flows *f)
{
    char path[256];
    _cleanup_fd_ int fd = -1;

    if (snprintf(path, sizeof(path), "%s/%s", f->proxy->settings.run_dir, BRUMA_FLOW_LOCK) >=
        (int)sizeof(path))
        return -ENAMETOOLONG;
    fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0 || flock(fd, LOCK_EX | LOCK_NB) < 0)
        return -errno;
    f->lock_fd = take_fd(&fd);
    return 0;
}

static void read_lost(struct flows *f)
{
    uint64_t said;

    if (pread(f->lock_fd, &said, sizeof(said), 0) != sizeof(said) ||
        said > __atomic_load_n(&f->control->lost_events, __ATOMIC_RELAXED))
        said = 0; /* nobody has said any, or the maps are new */
    f->lost_seen = said;
}

static void look_for_lost(struct flows *f)
{
    uint64_t lost = __atomic_load_n(&f->control->lost_events, __ATOMIC_RELAXED), more = lost - f->lost_seen,
             unsaid;

    if (!more)
        return;
    f->lost_seen = lost;
    counter_add(&f->lost, more);
    if (pwrite(f->lock_fd, &lost, sizeof(lost), 0) != sizeof(lost))
        log_debug("%s cannot be written", BRUMA_FLOW_LOCK);
    if (log_rest_over(&f->lost_line, loop_now(f->loop), &unsaid))
        log_warn("events of direct connections are lost: log lines are missing, and connections in the "
                 "metrics\tlost=%" PRIu64 " all=%" PRIu64,
                 more, lost);
}

/* ---- reading ---- */

static void on_record(void *data, const void *record, size_t len)
{
    account_event(data, record, len);
}

static size_t read_events(struct flows *f)
{
    size_t n = ring_read(&f->ring, EVENTS_A_TURN, on_record, &f->account);

    counter_add(&f->broken, f->ring.broken);
    f->ring.broken = 0;
    look_for_lost(f);
    return n;
}

/* Not for ever: a writer may be faster, or stand in the middle of a record. */
static void read_all(struct flows *f)
{
    for (size_t i = 0; i < TURNS_TO_DRAIN && read_events(f) == EVENTS_A_TURN; i++)
        ;
}

static void between(void *data)
{
    (void)read_events(data);
}

/* What lives may be much: the ring is read meanwhile. */
static int sample(struct flows *f)
{
    const struct sample_pause pause = {between, f};

    return sample_all(&f->account, f->fds[FLOWS_FD_LIVE], &pause);
}

static void set_polling(struct flows *f, uint32_t polling)
{
    __atomic_store_n(&f->control->polling, polling, __ATOMIC_SEQ_CST);
}

/* All programs that may have seen the old word in the control map have ended. False: this kernel cannot say
 * so. */
static bool programs_have_ended(void)
{
    bool good;

    reader_offline();
    good = syscall(SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0) == 0;
    reader_online();
    return good;
}

/*
 * A program that has seen `polling` before it was taken back wakes nobody by what it writes, and who writes
 * after it finds us behind, and wakes nobody either: nothing would ever be read again. So it is waited until
 * there is no such program any more, and looked once more. Where the kernel does not wait (nohz_full), a few
 * more looks have to do: a program runs for microseconds.
 */
static void fall_asleep(struct flows *f)
{
    set_polling(f, 0);
    if (!programs_have_ended() && ++f->quiet < QUIET_LOOKS + 4) {
        loop_timer_set(f->loop, &f->timer, LOOK_MILLISECONDS);
        return;
    }
    f->asleep = true;
    /* Says at once what is there, and from here on what comes. */
    loop_watch_modify(f->loop, &f->watch, EPOLLIN);
}

static void look(struct flows *f)
{
    size_t n = read_events(f);

    if (n) {
        if (f->quiet >= QUIET_LOOKS)
            set_polling(f, 1);
        f->quiet = 0;
        loop_timer_set(f->loop, &f->timer, n == EVENTS_A_TURN ? 0 : LOOK_MILLISECONDS);
    } else if (++f->quiet < QUIET_LOOKS || !ring_is_empty(&f->ring)) {
        loop_timer_set(f->loop, &f->timer, LOOK_MILLISECONDS);
    } else {
        fall_asleep(f);
    }
}

static void on_events(struct loop_watch *watch, uint32_t events)
{
    struct flows *f = container_of(watch, struct flows, watch);

    (void)events;
    if (f->asleep) {
        f->asleep = false;
        f->quiet = 0;
        set_polling(f, 1);
        loop_watch_modify(f->loop, watch, EPOLLIN | EPOLLET); /* the kernel wakes us where the ring fills */
    }
    look(f);
}

/* ---- who reads ---- */

static void adopt(void *data, uint64_t socket_cookie, const struct bruma_flow *flow)
{
    account_adopt(data, socket_cookie, flow);
}

static void close_maps(struct flows *f)
{
    loop_watch_remove(f->loop, &f->watch);
    ring_close(&f->ring);
    if (f->control)
        munmap(f->control, (size_t)sysconf(_SC_PAGESIZE));
    f->control = NULL;
}

static int open_maps(struct flows *f)
{
    int r = ring_open(&f->ring, f->fds[FLOWS_FD_EVENTS], BRUMA_FLOW_RING);
    void *control;

    if (r < 0)
        return r;
    control = mmap(NULL, (size_t)sysconf(_SC_PAGESIZE), PROT_READ | PROT_WRITE, MAP_SHARED,
                   f->fds[FLOWS_FD_CONTROL], 0);
    if (control == MAP_FAILED) {
        r = -errno;
    } else {
        f->control = control;
        r = loop_watch_add(f->loop, &f->watch, f->fds[FLOWS_FD_EVENTS], EPOLLIN | EPOLLET, on_events);
    }
    if (r < 0)
        close_maps(f);
    return r;
}

/* The lock is held. What is in the ring is of before; what lives and is not in there too. */
static void begin(struct flows *f)
{
    int r = open_maps(f);

    if (r < 0) {
        log_error_errno(r, "events of direct connections cannot be read");
        close(take_fd(&f->lock_fd));
        return;
    }
    f->asleep = f->waits = false;
    f->quiet = 0;
    f->account.since = nanoseconds();
    set_polling(f, 1);
    read_lost(f);
    read_all(f);
    r = sample_list(f->fds[FLOWS_FD_LIVE], adopt, &f->account);
    if (r < 0)
        log_warn_errno(r, "not all direct connections that live can be listed");
    (void)sample(f);
    __atomic_store_n(&f->is_reading, 1, __ATOMIC_RELAXED);
    log_info("reads events of direct connections\tlive=%" PRIu64, f->account.live);
    look(f);
}

static void forget_all(struct flows *f)
{
    account_clear(&f->account);
    if (account_init(&f->account) < 0)
        abort(); /* a few kilobytes that were there a moment ago */
}

static void end(struct flows *f)
{
    read_all(f);
    (void)sample(f);
    set_polling(f, 0); /* nobody looks; the next one does, before it sleeps */
    forget_all(f);
    loop_timer_cancel(&f->timer);
    close_maps(f);
    __atomic_store_n(&f->is_reading, 0, __ATOMIC_RELAXED);
    close(take_fd(&f->lock_fd));
    log_info("lets go of events of direct connections");
}

void flows_reader_look(struct flows *f)
{
    bool reads = f->control != NULL;
    int r;

    if (!f->wanted || f->fds[FLOWS_FD_EVENTS] < 0) {
        loop_timer_cancel(&f->timer);
        if (reads)
            end(f);
        return;
    }
    if (reads)
        return;
    r = take_lock(f);
    if (r == 0) {
        begin(f);
        return;
    }
    if (!f->waits) {
        if (r == -EWOULDBLOCK)
            log_info("another process reads events of direct connections still");
        else
            log_error_errno(r,
                            "cannot lock %s of the run directory: events of direct connections are not "
                            "read",
                            BRUMA_FLOW_LOCK);
    }
    f->waits = true;
    loop_timer_set(f->loop, &f->timer, LOCK_MILLISECONDS);
}

static void on_timer(struct loop_timer *timer)
{
    struct flows *f = container_of(timer, struct flows, timer);

    if (f->control)
        look(f);
    else
        flows_reader_look(f);
}

/* The kernel's number of a map; 0: it cannot be learnt. */
static unsigned map_number(int fd)
{
    char path[48], line[128];
    unsigned id = 0;

    snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", fd);
    _cleanup_file_ FILE *file = fd < 0 ? NULL : fopen(path, "re");

    while (file && !id && fgets(line, sizeof(line), file))
        (void)sscanf(line, "map_id: %u", &id);
    return id;
}

static bool are_same(const int a[FLOWS_FD_COUNT], const int b[FLOWS_FD_COUNT])
{
    for (int i = 0; i < FLOWS_FD_COUNT; i++) {
        if (!map_number(a[i]) || map_number(a[i]) != map_number(b[i]))
            return false;
    }
    return true;
}

void flows_reader_take(struct flows *f, const int fds[FLOWS_FD_COUNT])
{
    int before[FLOWS_FD_COUNT];

    memcpy(before, f->fds, sizeof(before));
    /* As a rule they are the same again, after the agent was started anew. */
    if (are_same(before, fds)) {
        memcpy(before, fds, sizeof(before));
        close_fds(before, FLOWS_FD_COUNT);
        return;
    }
    if (f->control)
        end(f);
    close_fds(before, FLOWS_FD_COUNT);
    memcpy(f->fds, fds, sizeof(f->fds));
    flows_reader_look(f);
}

void flows_reader_refresh(struct flows *f)
{
    uint64_t now = loop_now(f->loop);

    if (!f->control || (f->sampled && now < f->sampled + SAMPLE_MILLISECONDS))
        return;
    f->sampled = now;
    read_all(f);
    if (sample(f) < 0)
        log_warn("out of memory: metrics of live direct connections are not up to date");
}

void flows_reader_init(struct flows *f)
{
    f->watch.fd = -1;
    loop_timer_init(&f->timer, on_timer);
    reader_loop(&f->reader, f->loop, NULL, NULL);
}
