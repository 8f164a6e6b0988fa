/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What waits to be exported, of one signal. Workers put, one sender takes in batches; who puts never waits
 * for the sender: what finds no room is dropped and counted.
 */
#ifndef PROXY_OTLP_OTLP_QUEUE_H
#define PROXY_OTLP_OTLP_QUEUE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define OTLP_QUEUE_RECORDS 16384u
#define OTLP_QUEUE_BYTES   (8u * 1024 * 1024)
#define OTLP_BATCH_RECORDS 1024u /* a sender is woken by so many, and takes no more at once */
#define OTLP_BATCH_BYTES   (1u * 1024 * 1024)

/* Why something was not exported. */
enum otlp_drop {
    OTLP_DROP_FULL,     /* there was no room */
    OTLP_DROP_REFUSED,  /* the collector's answer was an error that does not go away */
    OTLP_DROP_REJECTED, /* the collector took the request without them */
    OTLP_DROP_GAVE_UP,  /* it was tried for too long */
    OTLP_DROP_ENDED,    /* the process ended before */
    OTLP_DROP_REPLACED, /* a newer page of metrics was there before it could be sent */
    OTLP_DROP_MEMORY,
    OTLP_DROPS
};
/* "queue_full" and so on, as metrics show it: a static text, never NULL. */
const char *otlp_drop_name(enum otlp_drop drop);

/* One message of the signal, packed, or the text of a page of metrics. */
struct otlp_record {
    struct otlp_record *next;
    uint32_t items; /* log records, spans or data points in it; of a page its samples */
    uint64_t time;  /* of a page: nanoseconds of the wall clock */
    size_t len;
    uint8_t data[];
};

/* An empty one of len bytes for the caller to fill, or NULL without memory. */
struct otlp_record *otlp_record_new(size_t len, uint32_t items);

struct otlp_batch {
    struct otlp_record *first;
    size_t records, bytes;
    uint64_t items;
};
/* Frees the records. */
void otlp_batch_clear(struct otlp_batch *batch);
/* Appends it, and owns it. */
void otlp_batch_add(struct otlp_batch *batch, struct otlp_record *record);

struct otlp_queue;

/* delay: milliseconds that the first of a batch waits for others at most. 0 or -ENOMEM. */
int otlp_queue_new(unsigned long delay, struct otlp_queue **ret);
/* Drops what is left; after the sender's thread has ended. */
void otlp_queue_free(struct otlp_queue **queue);

/* Takes the record; NULL counts as one that there was no memory for. Any thread; waits for nobody. */
void otlp_queue_put(struct otlp_queue *queue, struct otlp_record *record);
/* The same of the one record that is of use: those before it are dropped. */
void otlp_queue_replace(struct otlp_queue *queue, struct otlp_record *record);

/* The sender's: waits for a batch, *ret, which is then the caller's. False, and ret is not written: it has
 * ended, and nothing is left. */
bool otlp_queue_take(struct otlp_queue *queue, struct otlp_batch *ret);
/* Waits so many milliseconds, or until the end is there. */
void otlp_queue_pause(struct otlp_queue *queue, uint64_t milliseconds);
/* What was taken is not exported, for that reason. */
void otlp_queue_drop(struct otlp_queue *queue, uint64_t items, enum otlp_drop why);

/* What is there is to be sent at once, within so many milliseconds. */
void otlp_queue_end(struct otlp_queue *queue, uint64_t milliseconds);
/* Milliseconds that are left, UINT64_MAX: it has not ended. Any thread. */
uint64_t otlp_queue_left(struct otlp_queue *queue);

/* How many records wait, and what was dropped since the start, by enum otlp_drop. */
struct otlp_queue_counts {
    uint64_t queued, dropped[OTLP_DROPS];
};
/* Fills ret. Any thread. */
void otlp_queue_count(struct otlp_queue *queue, struct otlp_queue_counts *ret);

/* Milliseconds of CLOCK_MONOTONIC. */
uint64_t otlp_now(void);

#endif
