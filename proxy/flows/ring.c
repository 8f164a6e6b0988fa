/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/flows/ring.h"

#include <errno.h>
#include <linux/bpf.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define ALIGNED(n) (((n) + 7) & ~UINT64_C(7))

int ring_open(struct ring *ring, int fd, size_t size)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    void *reader, *others;

    *ring = (struct ring){.fd = fd, .size = size};
    if (!size || (size & (size - 1)) || size % page)
        return -EINVAL;
    reader = mmap(NULL, page, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (reader == MAP_FAILED)
        return -errno;
    others = mmap(NULL, page + 2 * size, PROT_READ, MAP_SHARED, fd, (off_t)page);
    if (others == MAP_FAILED) {
        int e = errno;

        munmap(reader, page);
        return -e;
    }
    ring->reader = reader;
    ring->writers = others;
    ring->records = (const uint8_t *)others + page;
    return 0;
}

void ring_close(struct ring *ring)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);

    if (ring->reader)
        munmap(ring->reader, page);
    if (ring->writers)
        munmap(ring->writers, page + 2 * ring->size);
    memset(ring, 0, sizeof(*ring));
    ring->fd = -1;
}

/* The position behind the record, or at if it is not written yet. */
static uint64_t read_one(struct ring *ring, uint64_t at, uint64_t end, ring_fn fn, void *data)
{
    const uint8_t *record = ring->records + (at & (ring->size - 1));
    /* Whoever wrote the record has set this word last. */
    uint32_t word = __atomic_load_n((const uint32_t *)(const void *)record, __ATOMIC_ACQUIRE);
    uint64_t len = word & ~(BPF_RINGBUF_BUSY_BIT | BPF_RINGBUF_DISCARD_BIT);
    uint64_t next = at + ALIGNED(len + BPF_RINGBUF_HDR_SZ);

    if (word & BPF_RINGBUF_BUSY_BIT)
        return at;
    if (next > end) {
        ring->broken++;
        return end;
    }
    if (!(word & BPF_RINGBUF_DISCARD_BIT))
        fn(data, record + BPF_RINGBUF_HDR_SZ, len);
    return next;
}

size_t ring_read(struct ring *ring, size_t max, ring_fn fn, void *data)
{
    uint64_t at = __atomic_load_n(ring->reader, __ATOMIC_RELAXED);
    size_t n = 0;

    while (n < max) {
        uint64_t end = __atomic_load_n(ring->writers, __ATOMIC_ACQUIRE), next;

        if (at == end)
            break;
        /* The positions contradict each other, or the reader's is within a record. */
        if (end - at > ring->size || at % 8) {
            ring->broken++;
            next = end;
        } else {
            next = read_one(ring, at, end, fn, data);
        }
        if (next == at)
            break;
        at = next;
        n++;
        __atomic_store_n(ring->reader, at, __ATOMIC_RELEASE);
    }
    /* What writers see of our position, and we of theirs, must not pass each other: they wake us if they see
     * us where they write. */
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    return n;
}

bool ring_is_empty(const struct ring *ring)
{
    return __atomic_load_n(ring->reader, __ATOMIC_RELAXED) ==
           __atomic_load_n(ring->writers, __ATOMIC_ACQUIRE);
}
