/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A listener whose connections cannot be accepted for want of descriptors or memory is acceptable for ever:
 * it is not watched for a moment, and the line about it rests. Every accept loop asks accept_rest() about
 * each failure.
 */
#ifndef LIB_ACCEPT_REST_H
#define LIB_ACCEPT_REST_H

#include "lib/log_rest.h"
#include "lib/loop.h"

#define ACCEPT_REST 200 /* milliseconds */

struct accept_rest {
    struct loop *loop;
    struct loop_watch *watch; /* of the listener, which the owner has added with EPOLLIN */
    struct loop_timer timer;
    struct log_rest line;
};

/* Nothing is armed yet; watch may be added later. Both pointers stay the caller's and outlive rest. */
void accept_rest_init(struct accept_rest *rest, struct loop *loop, struct loop_watch *watch);
/* Before the watch is removed for good. */
void accept_rest_cancel(struct accept_rest *rest);
/* error: a negative errno of accept(). True if descriptors or memory are short: the loop ends, and goes on
 * by itself. what: of the listener, for the line. */
bool accept_rest(struct accept_rest *rest, int error, const char *what);

#endif
