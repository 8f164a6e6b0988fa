/* SPDX-License-Identifier: Apache-2.0 */
/* What the proxies of all nodes tell of connections: each is asked again and again by a thread of its own, so
 * that one that is silent keeps nobody waiting. A connection that breaks is made anew, after a pause that
 * grows. */
#ifndef CTL_FLOW_FEEDS_H
#define CTL_FLOW_FEEDS_H

#include "ctl/commands.h"

#define FLOW_FEEDS_PERIOD 500 /* milliseconds between two questions to a proxy */

struct flow_feeds;

/* One answer, or why there is none. */
struct flow_news {
    const char *node;                    /* the feeds'; "" of this machine */
    cJSON *answer;                       /* {"lost","lines"}, the caller's; NULL: none */
    double gap;                          /* seconds before it of which nothing is known; 0: none */
    char complaint[PLACE_COMPLAINT_MAX]; /* where there is no answer */
};

/* Begins to ask. 0 or -errno; the options outlive it. Signals are left to the calling thread. */
int flow_feeds_open(const struct ctl_options *options, struct flow_feeds **ret);
/* How many there are. */
size_t flow_feeds_len(const struct flow_feeds *feeds);
/* Moves what feed i has to tell to *ret; it is asked again only then. False: nothing new, and *ret is not
 * written. */
bool flow_feeds_take(struct flow_feeds *feeds, size_t i, struct flow_news *ret);
/* Each is asked for a last time, unless it is in trouble. */
void flow_feeds_finish(struct flow_feeds *feeds);
/* Whether the last answers were taken. */
bool flow_feeds_ended(struct flow_feeds *feeds);
/* Ends what is under way, which may take a second. NULL is none. */
void flow_feeds_close(struct flow_feeds **feeds);

#endif
