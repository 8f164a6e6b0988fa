/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Live connections from a proxy to its successor: what the control threads of both do. The sockets come from
 * the agent (protocol.h, "hand-over" and "take"). Control thread.
 */
#ifndef PROXY_HANDOVER_HANDOVER_H
#define PROXY_HANDOVER_HANDOVER_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include <cjson/cJSON.h>

struct handover;
struct proxy;

/* What has come from the proxy before. */
struct handed_over {
    uint64_t moved, left;         /* units; connections that it drains */
    uint64_t milliseconds, pause; /* pause: of one unit at most, in microseconds */
    const char *why;              /* not all has; "": all has */
};

/* Both on the control thread. Given by main.c. */
struct handover_events {
    /* Called once there is nobody to give to any more: all has gone that will. */
    void (*gave)(struct proxy *proxy);
    /* Called once for each handover_take() that succeeds; told is valid during the call. */
    void (*told)(struct proxy *proxy, const struct handed_over *told);
};

/* events: kept, not copied. 0 or -ENOMEM. */
int handover_new(struct proxy *proxy, const struct handover_events *events, struct handover **ret);
/* Workers have ended. */
void handover_free(struct handover **handover);

/* This is the old one: what it carries goes to whoever has the other end. While it gives to another one, what
 * that does not take goes there afterwards. Takes fd. 0 or -errno. */
int handover_give(struct handover *handover, int fd);
/* This is the new one; pidfd is of the old one. Takes both. 0 or -errno; -EALREADY: it is at it. */
int handover_take(struct handover *handover, int fd, int pidfd);
/* Whether what is carried may still go: nothing needs to be told that it ends. */
bool handover_is_giving(const struct handover *handover);

/* What was handed over last, for the admin page; the caller's. NULL: no memory. */
cJSON *handover_dump(const struct handover *handover);
/* Appends OpenMetrics text. */
void handover_write_metrics(const struct handover *handover, FILE *out);

#endif
