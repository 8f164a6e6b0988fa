/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of the reader share. Everything is the reader's thread's own unless a comment says
 * otherwise. */
#ifndef PROXY_FLOWS_FLOWS_INTERNAL_H
#define PROXY_FLOWS_FLOWS_INTERNAL_H

#include "lib/log_rest.h"
#include "proxy/flows/flows.h"
#include "proxy/flows/ring.h"
#include "proxy/state/reader.h"

/* The maps that it has descriptors of, by message direct. */
enum flows_fd { FLOWS_FD_CONTROL, FLOWS_FD_LIVE, FLOWS_FD_EVENTS, FLOWS_FD_COUNT };

struct flows {
    struct proxy *proxy;
    pthread_t thread;
    struct loop *loop; /* loop_post() from any thread */
    struct reader reader;
    struct telemetry *telemetry;
    struct flow_pods *pods; /* has a lock of its own */
    struct account account;
    int fds[FLOWS_FD_COUNT];              /* -1: not given yet */
    int lock_fd;                          /* -1: the lock is not held */
    bool wanted;                          /* pods and mesh are known, and no other process has taken over */
    bool waits;                           /* for the lock, and has said so */
    bool asleep;                          /* the kernel wakes us */
    struct ring ring;                     /* while it reads */
    struct bruma_direct_control *control; /* while it reads */
    struct loop_watch watch;
    struct loop_timer timer; /* looks for events, or for the lock */
    unsigned quiet;          /* looks in a row without an event */
    uint64_t sampled;        /* loop_now() */
    uint64_t lost_seen;      /* of control->lost_events */
    struct log_rest lost_line;
    /* relaxed atomics */
    uint64_t is_reading, lost, broken;
    /* under the lock, for any thread */
    pthread_mutex_t lock;
    pthread_cond_t told;
    uint64_t refreshed; /* times */
    bool asked;
};

/* Once, before the thread runs. */
void flows_reader_init(struct flows *flows);
/* Takes the descriptors. */
void flows_reader_take(struct flows *flows, const int fds[FLOWS_FD_COUNT]);
/* Whether it is to read may have changed: begins, or reads what is left and lets go. */
void flows_reader_look(struct flows *flows);
/* Reads what is there, and asks the kernel for the bytes of those that live; not if that was just done. */
void flows_reader_refresh(struct flows *flows);

#endif
