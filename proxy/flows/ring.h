/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The reader's end of a BPF ring buffer, as the kernel's UAPI has it: a page with the reader's position,
 * which this end alone writes, a page with the writers' position, and the records, mapped twice in a row so
 * that none is split. A record is a header of 8 bytes, whose first word has its length and two bits, and its
 * bytes.
 *
 * Nothing that is read there is taken for granted: what cannot be a record is skipped up to where the writers
 * are, and counted.
 */
#ifndef PROXY_FLOWS_RING_H
#define PROXY_FLOWS_RING_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct ring {
    uint64_t *reader;  /* position; only grows */
    uint64_t *writers; /* position; only grows */
    const uint8_t *records;
    size_t size; /* bytes of them: a power of two */
    int fd;
    uint64_t broken; /* times that something was skipped which cannot be a record */
};

/* fd of the map: kept, not taken. size: bytes, as the map was made. 0 or -errno; ring_close() is fine after
 * both. */
int ring_open(struct ring *ring, int fd, size_t size);
/* Unmaps it; fd stays the caller's. Harmless a second time, and for a zeroed one. */
void ring_close(struct ring *ring);

/* Called by ring_read(), on its caller's thread, for one record; its bytes are valid for this call. */
typedef void (*ring_fn)(void *data, const void *record, size_t len);

/* Reads what is there, at most max records; each is given back to the writers after fn has returned. How many
 * there were. One thread, of one process. */
size_t ring_read(struct ring *ring, size_t max, ring_fn fn, void *data);
/* Whether everything has been read that writers had reserved; what is reserved and not yet written counts. */
bool ring_is_empty(const struct ring *ring);

#endif
