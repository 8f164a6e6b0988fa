/* SPDX-License-Identifier: Apache-2.0 */
#include "lib/accept_rest.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "lib/reasons.h"

#define LOG_SCOPE "accept"
#include "lib/log.h"

static void on_over(struct loop_timer *timer)
{
    struct accept_rest *rest = container_of(timer, struct accept_rest, timer);

    (void)loop_watch_modify(rest->loop, rest->watch, EPOLLIN);
}

void accept_rest_init(struct accept_rest *rest, struct loop *loop, struct loop_watch *watch)
{
    *rest = (struct accept_rest){.loop = loop, .watch = watch};
    loop_timer_init(&rest->timer, on_over);
}

void accept_rest_cancel(struct accept_rest *rest)
{
    loop_timer_cancel(&rest->timer);
}

bool accept_rest(struct accept_rest *rest, int error, const char *what)
{
    uint64_t unsaid;

    if (error != -EMFILE && error != -ENFILE && error != -ENOMEM && error != -ENOBUFS)
        return false;
    if (log_rest_over(&rest->line, loop_now(rest->loop), &unsaid))
        log_error("connections wait: they cannot be accepted now\twhere=\"%s\" reason=%s error=\"%s\" "
                  "unsaid=%" PRIu64,
                  what, reason_name(BRUMA_REASON_OUT_OF_RESOURCES), strerror(-error), unsaid);
    (void)loop_watch_modify(rest->loop, rest->watch, 0);
    loop_timer_set(rest->loop, &rest->timer, ACCEPT_REST);
    return true;
}
