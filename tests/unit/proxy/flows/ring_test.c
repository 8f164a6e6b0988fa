/* SPDX-License-Identifier: Apache-2.0 */
/* The reader's end of a ring whose writers' end is this test: a file in memory, laid out as the kernel does.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <linux/bpf.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "proxy/flows/ring.h"

#define SIZE 4096u /* a page, which is the least */

static struct ring ring;
static int fd;
static uint8_t *memory; /* of the writers */
static uint64_t *writers;
static unsigned long seen[64];
static size_t seen_len;

static void setup(void)
{
    long page = sysconf(_SC_PAGESIZE);

    fd = memfd_create("ring", MFD_CLOEXEC);
    cr_assert(fd >= 0 && ftruncate(fd, 2 * page + 2 * SIZE) == 0);
    memory = mmap(NULL, 2 * (size_t)page + 2 * SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    cr_assert(memory != MAP_FAILED);
    writers = (uint64_t *)(void *)(memory + page);
    cr_assert(ring_open(&ring, fd, SIZE) == 0);
    seen_len = 0;
}

static void teardown(void)
{
    ring_close(&ring);
    ring_close(&ring);
    close(fd);
}

TestSuite(flow_ring, .init = setup, .fini = teardown);

/* The second half of what is mapped is the first again, which a file is not. */
static void put_bytes(uint64_t at, const void *bytes, size_t len)
{
    uint8_t *records = memory + 2 * sysconf(_SC_PAGESIZE);

    for (size_t i = 0; i < len; i++) {
        size_t where = (at + i) % SIZE;

        records[where] = records[where + SIZE] = ((const uint8_t *)bytes)[i];
    }
}

static void put_word(uint64_t at, uint32_t word)
{
    uint8_t *records = memory + 2 * sysconf(_SC_PAGESIZE);

    __atomic_store_n((uint32_t *)(void *)(records + at % SIZE + SIZE), word, __ATOMIC_RELEASE);
    __atomic_store_n((uint32_t *)(void *)(records + at % SIZE), word, __ATOMIC_RELEASE);
}

/* Reserves; the word comes later. */
static uint64_t reserve(size_t len)
{
    uint64_t at = *writers;

    put_word(at, (uint32_t)len | BPF_RINGBUF_BUSY_BIT);
    __atomic_store_n(writers, at + ((len + 8 + 7) & ~7ul), __ATOMIC_RELEASE);
    return at;
}

static void put(unsigned long value, uint32_t flags)
{
    uint64_t at = reserve(sizeof(value));

    put_bytes(at + 8, &value, sizeof(value));
    put_word(at, sizeof(value) | flags);
}

static void take(void *data, const void *record, size_t len)
{
    cr_assert(len == sizeof(seen[0]), "%zu", len);
    memcpy(&seen[seen_len++], record, len);
}

Test(flow_ring, what_was_written_is_read_once_and_in_order)
{
    cr_expect(ring_is_empty(&ring));
    cr_expect(ring_read(&ring, 10, take, NULL) == 0);
    for (unsigned long i = 1; i <= 3; i++)
        put(i, 0);
    cr_expect(!ring_is_empty(&ring));
    cr_expect(ring_read(&ring, 2, take, NULL) == 2);
    cr_expect(ring_read(&ring, 10, take, NULL) == 1);
    cr_expect(ring_read(&ring, 10, take, NULL) == 0);
    cr_expect(seen_len == 3 && seen[0] == 1 && seen[1] == 2 && seen[2] == 3);
    cr_expect(*ring.reader == *writers && ring_is_empty(&ring));
    cr_expect(ring.broken == 0);
}

Test(flow_ring, one_that_is_being_written_holds_up_those_behind_it)
{
    uint64_t at = reserve(8);
    unsigned long value = 7;

    put(8, 0);
    cr_expect(ring_read(&ring, 10, take, NULL) == 0);
    cr_expect(!ring_is_empty(&ring));
    put_bytes(at + 8, &value, sizeof(value));
    put_word(at, 8);
    cr_expect(ring_read(&ring, 10, take, NULL) == 2);
    cr_expect(seen[0] == 7 && seen[1] == 8);
}

Test(flow_ring, what_its_writer_has_thrown_away_is_skipped)
{
    put(1, BPF_RINGBUF_DISCARD_BIT);
    put(2, 0);
    cr_expect(ring_read(&ring, 10, take, NULL) == 2);
    cr_expect(seen_len == 1 && seen[0] == 2 && ring.broken == 0);
}

Test(flow_ring, it_goes_round)
{
    for (unsigned long i = 0; i < 3 * SIZE / 16; i++) {
        put(i, 0);
        seen_len = 0;
        cr_assert(ring_read(&ring, 10, take, NULL) == 1 && seen[0] == i);
    }
}

/* As one that was closed has left it: who opens it next goes on there. */
Test(flow_ring, the_next_reader_goes_on_where_the_last_one_stopped)
{
    put(1, 0);
    put(2, 0);
    cr_expect(ring_read(&ring, 1, take, NULL) == 1);
    ring_close(&ring);
    cr_assert(ring_open(&ring, fd, SIZE) == 0);
    cr_expect(ring_read(&ring, 10, take, NULL) == 1);
    cr_expect(seen[0] == 1 && seen[1] == 2);
}

Test(flow_ring, a_length_that_cannot_be_is_skipped_and_counted)
{
    put_word(reserve(8), 0x3fffffff);
    cr_expect(ring_read(&ring, 10, take, NULL) == 1);
    cr_expect(seen_len == 0 && ring.broken == 1 && ring_is_empty(&ring));
    put(9, 0);
    cr_expect(ring_read(&ring, 10, take, NULL) == 1 && seen[0] == 9);
}

Test(flow_ring, positions_that_cannot_be_are_skipped_and_counted)
{
    put(1, 0);
    *ring.reader = 4; /* within a record */
    cr_expect(ring_read(&ring, 10, take, NULL) == 1 && ring.broken == 1 && ring_is_empty(&ring));
    *ring.reader = *writers - 8 * SIZE; /* further away than the ring is large */
    cr_expect(ring_read(&ring, 10, take, NULL) == 1 && ring.broken == 2 && ring_is_empty(&ring));
    *ring.reader = *writers + 64; /* ahead of the writers */
    cr_expect(ring_read(&ring, 10, take, NULL) == 1 && ring.broken == 3 && ring_is_empty(&ring));
    cr_expect(seen_len == 0);
}

Test(flow_ring, what_is_no_ring_is_refused)
{
    struct ring other;
    int small = memfd_create("small", MFD_CLOEXEC);

    cr_expect(ring_open(&other, fd, 0) == -EINVAL);
    cr_expect(ring_open(&other, fd, SIZE + 1) == -EINVAL);
    cr_expect(ring_open(&other, fd, 64) == -EINVAL);
    cr_expect(ring_open(&other, -1, SIZE) == -EBADF);
    ring_close(&other);
    close(small);
}

#define MANY 200000ul

static void *write_many(void *data)
{
    for (unsigned long i = 1; i <= MANY; i++) {
        while (*writers - __atomic_load_n(ring.reader, __ATOMIC_ACQUIRE) + 16 > SIZE)
            ;
        put(i, i % 7 ? 0 : BPF_RINGBUF_DISCARD_BIT);
    }
    return data;
}

static unsigned long last;

static void compare(void *data, const void *record, size_t len)
{
    unsigned long value;

    memcpy(&value, record, len);
    last += last % 7 == 6 ? 2 : 1;
    if (value != last)
        *(bool *)data = false;
}

Test(flow_ring, a_writer_beside_it_loses_nothing)
{
    bool good = true;
    pthread_t thread;
    size_t n = 0;

    last = 0;
    cr_assert(pthread_create(&thread, NULL, write_many, NULL) == 0);
    while (n < MANY)
        n += ring_read(&ring, 64, compare, &good);
    pthread_join(thread, NULL);
    cr_expect(good && n == MANY && ring.broken == 0);
}
