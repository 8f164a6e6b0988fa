/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/connection/admission.h"

static void waited(struct admission *a, enum telemetry_wait what)
{
    telemetry_waited(connection_worker(a->c)->telemetry, what, a->waits_since);
    a->waits_since = 0;
}

/* Policies that the workload names and that are not there are waited for: denying at once would fail the
 * first connections of a new pod, and passing them would fail open. */
static bool ask_policies(struct admission *a, bool timed_out)
{
    struct connection *c = a->c;
    enum connection_verdict verdict;
    enum bruma_reason reason;
    char detail[256];

    if (!worker_pod_workload(c->wp) && !c->flow.destination) {
        /* it has gone while its policies were waited for */
        a->ops->refused(a, 503, BRUMA_REASON_SOURCE_UNKNOWN, NULL);
        return true;
    }
    verdict = connection_authorize(c, timed_out, &reason, detail, sizeof(detail));
    if (verdict == CONNECTION_UNDECIDED) {
        telemetry_policy_wait(connection_worker(c)->telemetry, &a->policy_waited);
        if (!a->waits_since)
            a->waits_since = telemetry_now();
        return false;
    }
    waited(a, TELEMETRY_WAIT_POLICY);
    a->ops->open(a);
    if (verdict == CONNECTION_DENIED)
        a->ops->refused(a, 401, reason, detail);
    else
        a->ops->allowed(a);
    return true;
}

static bool check(struct waiter *waiter, bool timed_out)
{
    struct admission *a = container_of(waiter, struct admission, waiter);

    if (!a->placed) {
        struct telemetry *t = connection_worker(a->c)->telemetry;
        uint64_t since = a->waits_since;
        enum admission_step step = a->ops->place(a, timed_out);

        if (step == ADMISSION_WAITS && !since)
            a->waits_since = telemetry_now();
        if (step != ADMISSION_WAITS)
            telemetry_waited(t, TELEMETRY_WAIT_IDENTITY, since);
        if (step != ADMISSION_POLICIES)
            return step == ADMISSION_OVER;
        a->placed = true;
        a->waits_since = 0;
        timed_out = false; /* the policies have a time of their own */
        waiter_set_time(waiter, connection_worker(a->c)->settings->policy_timeout);
    }
    return ask_policies(a, timed_out);
}

void admission_init(struct admission *a, struct connection *c, const struct admission_ops *ops)
{
    *a = (struct admission){.c = c, .ops = ops};
    waiter_init(&a->waiter, c->wp, check);
}

bool admission_begin(struct admission *a)
{
    waiter_set_time(&a->waiter, connection_worker(a->c)->settings->source_timeout);
    return check(&a->waiter, false);
}

void admission_move(struct admission *to, const struct admission *from, struct connection *c)
{
    uint64_t until = from->waiter.until;

    *to = *from;
    to->c = c;
    waiter_init(&to->waiter, c->wp, check);
    to->waiter.until = until;
}

bool admission_needs_workload(struct admission *a, bool timed_out, const struct workload **ret,
                              enum admission_step *ret_step)
{
    const struct workload *local = worker_pod_workload(a->c->wp);

    if (local) {
        *ret = local;
        return true;
    }
    *ret_step = timed_out ? ADMISSION_OVER : ADMISSION_WAITS;
    if (timed_out)
        a->ops->refused(a, 503, BRUMA_REASON_SOURCE_UNKNOWN, NULL);
    return false;
}
