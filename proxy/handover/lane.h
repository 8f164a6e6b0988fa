/* SPDX-License-Identifier: Apache-2.0 */
/* Messages of bruma/handover.h on a socket, either end. The thread of the loop that it was opened on. */
#ifndef PROXY_HANDOVER_LANE_H
#define PROXY_HANDOVER_LANE_H

#include "bruma/handover.h"
#include "lib/loop.h"
#include "lib/outbox.h"
#include "proxy/wire/wire.h"

struct lane;

/* One that has come. The payload is valid during the call. */
struct lane_message {
    struct bruma_handover_head head;
    const uint8_t *payload;
    size_t len;
    int *fds; /* what is taken is set to -1; the rest is closed behind the call */
    size_t fds_len;
    bool is_short; /* it came with descriptors that this process has no room for */
};

struct lane_events {
    /* Called with each message. False: it is not as it may be, and the lane ends, which is told. */
    bool (*message)(struct lane *lane, const struct lane_message *message);
    /* Called once when the other end has gone, or the socket fails; it is closed. Its owner may be freed
     * here, by loop_free_later(). */
    void (*ended)(struct lane *lane);
};

/* Embedded in its owner; zeroed is none. */
struct lane {
    struct loop *loop;
    struct loop_watch watch; /* fd -1: closed */
    struct outbox outbox;
    const struct lane_events *events;
    uint8_t *buffer;
};

/* Takes fd, a connected SOCK_SEQPACKET socket, also when it fails. events: kept, not copied. 0 or -errno. */
int lane_open(struct lane *lane, struct loop *loop, int fd, const struct lane_events *events);
/* May be repeated, and called from within its events. */
void lane_close(struct lane *lane);
/* The same, once what has been said is sent: the other end hears all of it, and then the end, also where it
 * has said something itself that nobody reads. */
void lane_finish(struct lane *lane);
/* What has come by now is heard at once, with its events. */
void lane_hear(struct lane *lane);
/* Whether it is open, and so may say something. */
bool lane_is_open(const struct lane *lane);

/* Sends a message of one part; payload is emptied, and may be NULL. Descriptors stay the caller's. 0, or
 * -errno: the lane is of no use any more. */
int lane_say(struct lane *lane, enum bruma_handover_kind kind, uint32_t unit, struct wire_writer *payload,
             const int *fds, size_t fds_len);
/* The same for a unit, in as many parts as it needs; it stays the caller's. 0 or -errno, as above. */
int lane_say_unit(struct lane *lane, uint32_t unit, const struct wire_writer *payload, const int *fds,
                  size_t fds_len);

#endif
