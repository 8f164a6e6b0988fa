/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/enroll/enroll_private.h"

#include <errno.h>
#include <string.h>
#include <time.h>

#include "agent/enroll/dns_capture.h"
#include "agent/enroll/exclude.h"
#include "agent/enroll/forwards.h"
#include "agent/enroll/guard.h"
#include "agent/enroll/probes.h"
#include "agent/enroll/source.h"
#include "agent/enroll/watchdog.h"
#include "lib/netns.h"
#include "lib/reasons.h"
#include "lib/seqpacket.h"

#define LOG_SCOPE "enroll"
#include "lib/log.h"

#define ANSWER_WAIT  3000 /* milliseconds for the proxy's answer; the pod is enrolled without it then */
#define OPENED_WAIT  8000 /* where it opens the listeners, and the pod is not enrolled without */
#define RETRY_MAX    30000
#define ADDRESS_LOOK 25 /* milliseconds between tries while an address may be new to its device */

static uint64_t now_microseconds(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000 + (uint64_t)ts.tv_nsec / 1000;
}

int enroll_pod_add(struct agent *agent, const char *uid, const char *namespace, const char *name,
                   struct pod **ret)
{
    int r = enroll_pod_new(&agent->pods, uid, namespace, name, ret);

    if (r < 0)
        return r;
    enroll_bind(agent, *ret);
    (*ret)->added_at = (int64_t)time(NULL);
    (*ret)->added = loop_now(agent->loop);
    return 0;
}

bool enroll_wanted(const struct agent *agent, const struct pod *pod, const char **ret_why)
{
    return source_wanted(agent, pod, ret_why);
}

/* A failed try is repeated, less and less often. */
static void retry_later(struct agent *agent, struct pod *pod)
{
    uint64_t wait = 500;

    for (unsigned i = 0; i < pod->enrollment->failed_tries && wait < RETRY_MAX; i++)
        wait *= 2;
    enrollment_of(pod)->failed_tries++;
    loop_timer_set(agent->loop, &transition_of(pod)->timer, wait < RETRY_MAX ? wait : RETRY_MAX);
}

/* Once, however often it is tried again. */
static void report_once(struct agent *agent, struct pod *pod, const struct steer_error *error)
{
    if (error->reason && pod->enrollment->logged == error->reason)
        return;
    enrollment_of(pod)->logged = error->reason;
    log_error("a pod could not be enrolled\tpod=\"%s/%s\" reason=%s error=\"%s\"", pod->namespace, pod->name,
              reason_name(error->reason), error->text);
    source_report_failure(agent, pod, error->reason, error->text);
}

bool enroll_address_wait(struct agent *agent, struct pod *pod, const struct steer_error *error)
{
    struct transition *t = transition_of(pod);
    if (error->reason != BRUMA_REASON_POD_ADDRESS_UNUSABLE)
        return false;
    if (!t->address_until)
        t->address_until = loop_now(agent->loop) + ENROLL_ADDRESS_WAIT;
    return loop_now(agent->loop) < t->address_until;
}

void enroll_address_settled(struct pod *pod)
{
    transition_of(pod)->address_until = 0;
}

static void roll_back(struct agent *agent, struct pod *pod, int r, const struct steer_error *error)
{
    struct transition *t = transition_of(pod);
    enroll_set_error(pod, error->reason, error->text);
    loop_timer_cancel(&t->timer);
    t->awaits_plugin = t->awaits_proxy = false;
    dns_end(agent, pod);
    enroll_undo_capture(agent, pod);
    if (t->was_draining) {
        enroll_drain(agent, pod);
    } else {
        enroll_clean(agent, pod, pod->netns_fd);
        proxies_pod_delete(agent->proxies, pod);
        enroll_close_descriptors(pod);
        enroll_set_state(agent, pod, POD_OUTSIDE);
    }
    enroll_announce(agent, pod);
    report_once(agent, pod, error);
    enroll_end(pod, r, error);
    /* The runtime is told of the failure and tears the sandbox down, so nothing of it is kept. */
    if (t->by_plugin)
        enroll_remove(agent, pod, "its enrollment failed");
    else
        retry_later(agent, pod);
}

/* While the plugin attaches nothing is taken from under it: it would report that, and not what has failed. */
static void refuse(struct agent *agent, struct pod *pod, int r, const struct steer_error *error)
{
    struct transition *t = transition_of(pod);
    t->awaits_proxy = false;
    if (!t->awaits_plugin) {
        roll_back(agent, pod, r, error);
        return;
    }
    loop_timer_cancel(&t->timer);
    t->refusal = r;
    enroll_set_error(pod, error->reason, error->text);
}

/* By what was refused before, if something was. */
static void give_up(struct agent *agent, struct pod *pod, int r, struct steer_error *error)
{
    struct transition *t = transition_of(pod);
    if (t->refusal) {
        r = t->refusal;
        enroll_fail(error, r, pod->enrollment->last_reason, "%s", pod->enrollment->last_error);
    }
    roll_back(agent, pod, r, error);
}

static void bind_live(struct agent *agent, const struct pod *pod)
{
    int n = steer_pod_bind_live(agent->steer, pod->netns_fd);

    if (n > 0)
        log_info("connections that live are bound to their device\tpod=\"%s/%s\" connections=%d",
                 pod->namespace, pod->name, n);
    else if (n < 0 && n != -EOPNOTSUPP)
        log_warn_errno(n, "connections that live cannot be bound to their device\tpod=\"%s/%s\"",
                       pod->namespace, pod->name);
}

/* Goes on once nobody is waited for any more. */
static void try_finish(struct agent *agent, struct pod *pod)
{
    struct transition *t = transition_of(pod);
    struct health *h = health_of(pod);
    struct steer_error error = {0};
    struct steer_findings findings = {0};
    struct steer_pod p;
    int r = 0;

    if (pod->enrollment->state != POD_ENROLLING || t->awaits_plugin || t->awaits_proxy)
        return;
    loop_timer_cancel(&t->timer);
    if (t->refusal) {
        give_up(agent, pod, t->refusal, &error);
        return;
    }
    enroll_describe(agent, pod, &p);
    if (!t->by_plugin) {
        bind_live(agent, pod);
        r = steer_pod_attach(agent->steer, &p, &error);
    }
    if (r == 0)
        r = steer_pod_commit(agent->steer, &p, &error);
    if (r == 0) {
        /* those that have begun since */
        if (!t->by_plugin)
            bind_live(agent, pod);
        r = steer_pod_verify(agent->steer, &p, &findings);
        if (r < 0)
            enroll_fail(&error, r, BRUMA_REASON_INTERNAL, "the capture cannot be verified: %s", strerror(-r));
        else if (findings.len > 0)
            r = enroll_fail(&error, -EIO, findings.reasons[0], "right after enrollment: %s",
                            reason_what(findings.reasons[0]));
    }
    if (r < 0) {
        roll_back(agent, pod, r, &error);
        return;
    }
    enrollment_of(pod)->enrolled_at = h->verified_at = (int64_t)time(NULL);
    enrollment_of(pod)->took_microseconds = now_microseconds() - t->begun_microseconds;
    enrollment_of(pod)->failed_tries = 0;
    h->failed_repairs = 0;
    h->unrepaired.len = 0;
    enrollment_of(pod)->logged = BRUMA_REASON_NONE;
    enroll_set_error(pod, BRUMA_REASON_NONE, "");
    forwards_look(agent, pod);
    enroll_set_state(agent, pod, POD_ENROLLED);
    guard_forget(agent, pod->cookie);
    probes_register(agent, pod);
    exclusions_follow(agent, pod);
    dns_follow(agent, pod);
    watchdog_follow(agent, pod);
    enroll_announce(agent, pod);
    log_info("pod enrolled\tpod=\"%s/%s\" cookie=%lu generation=%u by=%s microseconds=%lu proxy=%s",
             pod->namespace, pod->name, (unsigned long)pod->cookie, pod->enrollment->generation,
             t->by_plugin ? "plugin" : "agent", (unsigned long)pod->enrollment->took_microseconds,
             proxies_pod_state(agent->proxies, pod));
    enroll_end(pod, 0, NULL);
    /* The labels may have changed while the transaction ran. */
    enroll_reconcile(agent, pod);
}

static void on_timer(struct loop_timer *timer)
{
    struct member *m = container_of(timer, struct member, transition.timer);
    struct transition *t = &m->transition;
    struct agent *agent = m->agent;
    struct pod *pod = &m->pod;
    struct steer_error error = {0};

    switch (pod->enrollment->state) {
    case POD_ENROLLING:
        if (proxies_open_listeners(agent->proxies)) {
            enroll_fail(&error, -ETIMEDOUT, BRUMA_REASON_ZDS_PROTOCOL,
                        "the node proxy did not answer for the pod in time");
            refuse(agent, pod, -ETIMEDOUT, &error);
            break;
        }
        log_warn("the proxy did not answer for a pod in time; it is enrolled without\tpod=\"%s/%s\"",
                 pod->namespace, pod->name);
        t->awaits_proxy = false;
        try_finish(agent, pod);
        break;
    case POD_LEAVING:
        if (!source_acked(agent, pod) && loop_now(agent->loop) < t->leave_until) {
            loop_timer_set(agent->loop, &t->timer, agent->settings->drain_grace);
            break;
        }
        enroll_note(pod, "detaching", steer_pod_detach(agent->steer, pod->cookie, &error), &error);
        enroll_drain(agent, pod);
        break;
    case POD_DRAINING:
        enroll_drained(agent, pod);
        if (pod->enrollment->state == POD_DRAINING)
            enroll_reconcile(agent, pod);
        break;
    case POD_OUTSIDE:
        enroll_reconcile(agent, pod);
        break;
    default:
        break;
    }
}

void enroll_bind(struct agent *agent, struct pod *pod)
{
    pod->loop = agent->loop;
    member_of(pod)->agent = agent;
    transition_of(pod)->timer.fn = on_timer;
}

int enroll_begin(struct agent *agent, struct pod *pod, bool plugin, pod_enrolled_fn done, void *data,
                 int *ret_program_fd, struct steer_error *error)
{
    struct transition *t = transition_of(pod);
    _cleanup_fd_ int program = -1;
    int r;

    enroll_bind(agent, pod);
    t->was_draining = pod->enrollment->state == POD_DRAINING;
    t->by_plugin = plugin;
    t->begun_microseconds = now_microseconds();
    r = enroll_prepare(agent, pod, &program, error);
    if (r < 0) {
        enroll_set_error(pod, error->reason, error->text);
        if (!t->was_draining)
            enroll_close_descriptors(pod);
        return r;
    }
    enrollment_of(pod)->captured_since_start = plugin;
    enrollment_of(pod)->awaits_listeners = false;
    t->address_until = 0;
    enroll_set_state(agent, pod, POD_ENROLLING);
    source_expect(agent, pod); /* the proxy asks for its certificate at once */
    proxies_pod_add(agent->proxies, pod);
    t->done = done;
    t->done_data = data;
    t->refusal = 0;
    t->awaits_plugin = plugin;
    t->awaits_proxy = proxies_answer_pending(agent->proxies, pod);
    loop_timer_cancel(&t->timer);
    if (t->awaits_proxy)
        loop_timer_set(agent->loop, &t->timer,
                       proxies_open_listeners(agent->proxies) ? OPENED_WAIT : ANSWER_WAIT);
    if (ret_program_fd)
        *ret_program_fd = take_fd(&program);
    try_finish(agent, pod);
    return 0;
}

void enroll_attached(struct agent *agent, struct pod *pod)
{
    struct transition *t = transition_of(pod);
    struct steer_error error = {0};

    if (pod->enrollment->state != POD_ENROLLING || !t->awaits_plugin)
        return;
    if (!steer_pod_attached(agent->steer, pod->cookie, pod->netns_fd)) {
        enroll_fail(&error, -ENOLINK, BRUMA_REASON_ATTACH_FAILED,
                    "the plugin reported success, but no link is pinned");
        give_up(agent, pod, -ENOLINK, &error);
        return;
    }
    t->awaits_plugin = false;
    try_finish(agent, pod);
}

void enroll_abort(struct agent *agent, struct pod *pod, enum bruma_reason reason, const char *text)
{
    struct steer_error error = {0};

    if (pod->enrollment->state != POD_ENROLLING)
        return;
    enroll_fail(&error, -ECANCELED, reason, "%s", text);
    give_up(agent, pod, -ECANCELED, &error);
}

void enroll_forget_waiter(struct pod *pod)
{
    transition_of(pod)->done = NULL;
}

void enroll_reconcile(struct agent *agent, struct pod *pod)
{
    struct transition *t = transition_of(pod);
    struct steer_error error = {0};
    const char *why;
    bool wanted;
    int r = 0;

    /* Who knows nothing of the pod changes nothing: it may be about to end. */
    if (!source_knows_pod(agent, pod))
        return;
    wanted = enroll_wanted(agent, pod, &why);
    switch (pod->enrollment->state) {
    case POD_OUTSIDE:
    case POD_DRAINING:
        if (!wanted) {
            enrollment_of(pod)->failed_tries = 0;
            guard_pass(agent, pod->cookie, pod->namespace, pod->name);
            break;
        }
        r = enroll_begin(agent, pod, false, NULL, NULL, NULL, &error);
        if (r < 0 && enroll_address_wait(agent, pod, &error)) {
            loop_timer_set(agent->loop, &t->timer, ADDRESS_LOOK);
        } else if (r < 0) {
            report_once(agent, pod, &error);
            retry_later(agent, pod);
            enroll_announce(agent, pod);
        }
        break;
    case POD_ENROLLING:
        if (!wanted && !t->by_plugin)
            enroll_abort(agent, pod, BRUMA_REASON_NONE, "the pod is no longer to be in the mesh");
        break;
    case POD_ENROLLED:
        if (!wanted) {
            enroll_leave(agent, pod, why);
        } else {
            enroll_update(agent, pod);
            probes_register(agent, pod);
            exclusions_follow(agent, pod);
            dns_follow(agent, pod);
        }
        break;
    case POD_LEAVING:
        if (wanted)
            enroll_come_back(agent, pod);
        break;
    default:
        break;
    }
}

void enroll_reconcile_all(struct agent *agent)
{
    struct pod *pod;

    list_for_each (pod, &agent->pods.list, node) {
        /* New labels are a reason to try at once what failed before. */
        enrollment_of(pod)->failed_tries = 0;
        enroll_reconcile(agent, pod);
    }
}

void enroll_answered(struct agent *agent, struct pod *pod, enum bruma_reason reason, const char *text)
{
    struct transition *t = transition_of(pod);
    struct steer_error error = {0};

    if (pod->enrollment->state == POD_ENROLLING && t->awaits_proxy) {
        if (text) {
            enroll_fail(&error, -EPROTO, reason, "the proxy refused the pod: %.200s", text);
            refuse(agent, pod, -EPROTO, &error);
            return;
        }
        t->awaits_proxy = false;
        if (!t->awaits_plugin)
            loop_timer_cancel(&t->timer);
        try_finish(agent, pod);
        return;
    }
    if (text)
        enroll_set_error(pod, reason, text);
    else if (pod->enrollment->state == POD_ENROLLED)
        enroll_set_error(pod, BRUMA_REASON_NONE, "");
}

void enroll_proxy_gone(struct agent *agent)
{
    uint64_t until = loop_now(agent->loop) + agent->settings->adopt_wait;
    struct steer_error error = {0};
    struct pod *pod;

    list_for_each (pod, &agent->pods.list, node) {
        if (pod->enrollment->state == POD_DRAINING) {
            /* Its connections live on if only the link broke: a proxy that comes back offers the pod again.
             */
            transition_of(pod)->clean_not_before = until;
            enroll_drained(agent, pod);
        } else if (pod->enrollment->state == POD_ENROLLING && transition_of(pod)->awaits_proxy) {
            if (proxies_open_listeners(agent->proxies) && !proxies_serving(agent->proxies)) {
                enroll_fail(&error, -ENOTCONN, BRUMA_REASON_PROXY_AWAY, "%s",
                            "the node proxy disconnected in the meantime");
                refuse(agent, pod, -ENOTCONN, &error);
                continue;
            }
            transition_of(pod)->awaits_proxy = proxies_answer_pending(agent->proxies, pod);
            try_finish(agent, pod);
        }
    }
}

void enroll_resume(struct agent *agent, struct pod *pod)
{
    struct transition *t = transition_of(pod);
    struct steer_error error = {0};

    enroll_bind(agent, pod);
    switch (pod->enrollment->state) {
    case POD_ENROLLING:
        /* The plugin saw the agent die and reported failure; the runtime tears the sandbox down. */
        enroll_fail(&error, -ECANCELED, BRUMA_REASON_AGENT_NOT_READY,
                    "the agent was restarted during the enrollment");
        t->by_plugin = true;
        roll_back(agent, pod, -ECANCELED, &error);
        break;
    case POD_LEAVING:
        loop_timer_set(agent->loop, &t->timer, agent->settings->drain_grace);
        break;
    case POD_DRAINING:
        t->clean_not_before = agent->adopt_until;
        enroll_drained(agent, pod);
        break;
    default:
        break;
    }
}
