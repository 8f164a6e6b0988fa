/* SPDX-License-Identifier: Apache-2.0 */
/* Verifying one pod, and putting right what is broken in it. */
#include <errno.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "agent/enroll/dns_capture.h"
#include "agent/enroll/enroll.h"
#include "agent/enroll/exclude.h"
#include "agent/enroll/member.h"
#include "agent/enroll/same_node.h"
#include "agent/enroll/watchdog.h"
#include "lib/reasons.h"

#define LOG_SCOPE "watchdog"
#include "lib/log.h"

#define REPAIR_WAIT_MAX 60000 /* milliseconds between two tries for a pod that cannot be repaired */

static bool among(const struct steer_findings *findings, enum bruma_reason reason)
{
    for (int i = 0; i < findings->len; i++) {
        if (findings->reasons[i] == reason)
            return true;
    }
    return false;
}

static bool same(const struct steer_findings *a, const struct steer_findings *b)
{
    return a->len == b->len && !memcmp(a->reasons, b->reasons, sizeof(a->reasons[0]) * (size_t)a->len);
}

/* left: what is broken still. */
static void count(struct agent *agent, struct pod *pod, const struct steer_findings *findings,
                  const struct steer_findings *left)
{
    for (int i = 0; i < findings->len; i++) {
        enum bruma_reason reason = findings->reasons[i];

        if (reason >= BRUMA_REASON_COUNT || among(left, reason))
            continue;
        health_of(pod)->repairs[reason]++;
        agent->repairs[reason]++;
        log_warn("capture of a pod was broken and has been repaired\tpod=\"%s/%s\" reason=%s detail=\"%s\"",
                 pod->namespace, pod->name, reason_name(reason), reason_what(reason));
    }
}

static int reopen(struct pod *pod, const struct steer_findings *findings, struct steer_error *error)
{
    for (int i = 0; i < BRUMA_LISTENER_COUNT; i++) {
        if (!findings->closed_listeners[i] || pod->enrollment->listeners[i] < 0)
            continue;
        close(pod->enrollment->listeners[i]);
        enrollment_of(pod)->listeners[i] = -1;
    }
    return steer_listeners_open(pod->netns_fd, enrollment_of(pod)->listeners, error);
}

static bool any_closed(const struct steer_findings *findings)
{
    for (int i = 0; i < BRUMA_LISTENER_COUNT; i++) {
        if (findings->closed_listeners[i])
            return true;
    }
    return false;
}

static void take_out(struct steer_findings *findings, enum bruma_reason reason)
{
    int kept = 0;

    for (int i = 0; i < findings->len; i++) {
        if (findings->reasons[i] != reason)
            findings->reasons[kept++] = findings->reasons[i];
    }
    findings->len = kept;
    memset(findings->closed_listeners, 0, sizeof(findings->closed_listeners));
}

/* Where proxies open the listeners, these are closed when the last proxy has gone: that is no broken capture,
 * and nothing that the agent could repair. */
static void verify_listeners(struct agent *agent, struct pod *pod, bool may_repair,
                             struct steer_findings *findings)
{
    bool closed = any_closed(findings);

    if (!proxies_open_listeners(agent->proxies))
        return;
    if (!closed)
        closed = steer_foreign_listeners_live(pod->netns_fd, pod->enrollment->listener_cookies) == 0;
    take_out(findings, BRUMA_REASON_LISTENER_CLOSED);
    if (!closed)
        return;
    if (!proxies_serving(agent->proxies)) {
        if (pod->enrollment->last_reason != BRUMA_REASON_PROXY_AWAY)
            log_warn("no proxy serves a pod: its connections are dropped\tpod=\"%s/%s\" reason=%s",
                     pod->namespace, pod->name, reason_name(BRUMA_REASON_PROXY_AWAY));
        enroll_set_error(pod, BRUMA_REASON_PROXY_AWAY, reason_what(BRUMA_REASON_PROXY_AWAY));
    } else if (!may_repair) {
        findings->reasons[findings->len++] = BRUMA_REASON_LISTENER_CLOSED;
    } else if (!strcmp(proxies_pod_state(agent->proxies, pod), "serving")) {
        const struct steer_findings lost = {.reasons = {BRUMA_REASON_LISTENER_CLOSED}, .len = 1}, none = {};

        count(agent, pod, &lost, &none);
        proxies_pod_reopen(agent->proxies, pod);
    }
}

static int repair(struct agent *agent, struct pod *pod, const struct steer_findings *findings,
                  struct steer_findings *ret_left, struct steer_error *error)
{
    bool replaced = any_closed(findings);
    struct steer_error later;
    struct steer_pod p;
    int r = replaced ? reopen(pod, findings, error) : 0, e;

    steer_quick_check_close(&health_of(pod)->quick_check);
    if (r == 0 && replaced)
        proxies_pod_add(agent->proxies, pod);
    /* What needs no listener is repaired without. */
    enroll_describe(agent, pod, &p);
    e = steer_pod_repair(agent->steer, &p, findings, r < 0 ? &later : error);
    r = r < 0 ? r : e;
    e = steer_pod_verify(agent->steer, &p, ret_left);
    if (e < 0)
        *ret_left = *findings;
    if (proxies_open_listeners(agent->proxies))
        take_out(ret_left, BRUMA_REASON_LISTENER_CLOSED);
    count(agent, pod, findings, ret_left);
    if (r == 0 && e < 0) {
        error->reason = BRUMA_REASON_CAPTURE_UNVERIFIED;
        snprintf(error->text, sizeof(error->text), "%s", strerror(-e));
        return e;
    }
    if (r == 0 && ret_left->len > 0) {
        error->reason = ret_left->reasons[0];
        snprintf(error->text, sizeof(error->text), "repaired, and broken again at once: %s",
                 reason_what(error->reason));
        return -EIO;
    }
    return r;
}

static bool is_going_down(const struct steer_findings *findings)
{
    return findings->len > 0 && findings->reasons[0] == BRUMA_REASON_LOOPBACK_DOWN;
}

/* The runtime takes the device down before it tells of the pod's end. Nobody's fault, and nothing to repair.
 */
static int wait_for_loopback(struct pod *pod, struct steer_error *error)
{
    error->reason = BRUMA_REASON_LOOPBACK_DOWN;
    snprintf(error->text, sizeof(error->text), "%s", reason_what(error->reason));
    if (pod->enrollment->last_reason != error->reason)
        log_info("a pod's loopback device is down\tpod=\"%s/%s\" reason=%s", pod->namespace, pod->name,
                 reason_name(error->reason));
    enroll_set_error(pod, error->reason, error->text);
    health_of(pod)->unrepaired = (struct steer_findings){.reasons = {error->reason}, .len = 1};
    return -ENETDOWN;
}

bool watchdog_quick_check(struct agent *agent, struct pod *pod)
{
    struct health *h = health_of(pod);
    struct steer_pod p = {
        .netns_fd = pod->netns_fd, .cookie = pod->cookie, .bypass_inbound = pod->enrollment->bypass_inbound};
    /* Its proxy tells of a listener that somebody has destroyed. */
    bool served =
        proxies_serving(agent->proxies) && !strcmp(proxies_pod_state(agent->proxies, pod), "serving");

    if (!h->quick_check.armed || h->failed_repairs || h->unrepaired.len)
        return false;
    memcpy(p.addresses, pod->addresses, sizeof(p.addresses));
    p.addresses_len = pod->addresses_len;
    memcpy(p.listeners, pod->enrollment->listeners, sizeof(p.listeners));
    if (!steer_quick_check_same(agent->steer, &p, &h->quick_check, !served))
        return false;
    h->verified_at = (int64_t)time(NULL);
    return true;
}

static void verified(struct pod *pod)
{
    struct health *h = health_of(pod);
    if (pod->enrollment->logged)
        log_info("capture of a pod is whole again\tpod=\"%s/%s\" was=%s", pod->namespace, pod->name,
                 reason_name(pod->enrollment->logged));
    if (pod->enrollment->last_reason == BRUMA_REASON_LOOPBACK_DOWN ||
        (h->failed_repairs && pod->enrollment->last_reason == h->repair_reason))
        enroll_set_error(pod, BRUMA_REASON_NONE, "");
    h->failed_repairs = 0;
    enrollment_of(pod)->logged = BRUMA_REASON_NONE;
    h->unrepaired.len = 0;
    h->verified_at = (int64_t)time(NULL);
}

/* Tried again less and less often, or once something changes, and told of once. */
static void put_off(struct agent *agent, struct pod *pod, const struct steer_findings *left,
                    const struct steer_error *error)
{
    struct health *h = health_of(pod);
    uint64_t wait = agent->settings->verify_interval;
    /* A new address is not to be used for a second or two. */
    bool passing = error->reason == BRUMA_REASON_POD_ADDRESS_UNUSABLE && !h->failed_repairs;

    for (unsigned i = 0; i < h->failed_repairs && wait < REPAIR_WAIT_MAX; i++)
        wait *= 2;
    if (wait > REPAIR_WAIT_MAX && wait > agent->settings->verify_interval)
        wait = REPAIR_WAIT_MAX;
    h->failed_repairs++;
    h->repair_at = loop_now(agent->loop) + wait;
    h->repair_reason = error->reason;
    h->unrepaired = *left;
    enroll_set_error(pod, error->reason, error->text);
    if (passing || pod->enrollment->logged == error->reason)
        return;
    enrollment_of(pod)->logged = error->reason;
    log_error("capture of a pod cannot be repaired; retrying, logged once\tpod=\"%s/%s\" "
              "reason=%s error=\"%s\"",
              pod->namespace, pod->name, reason_name(error->reason), error->text);
}

void watchdog_try_again(struct pod *pod)
{
    health_of(pod)->repair_at = 0;
}

static int remembered(const struct pod *pod, struct steer_error *error)
{
    error->reason = health_of(pod)->repair_reason;
    snprintf(error->text, sizeof(error->text), "%s", pod->enrollment->last_error);
    return -EAGAIN;
}

int watchdog_verify(struct agent *agent, struct pod *pod, bool may_repair, struct steer_error *error)
{
    struct health *h = health_of(pod);
    struct steer_findings findings = {0}, left = {0};
    bool early = h->failed_repairs && loop_now(agent->loop) < h->repair_at;
    struct steer_pod p;
    int r;

    /* What cannot even be looked at may take long to be looked at. */
    if (early && may_repair && h->repair_reason == BRUMA_REASON_CAPTURE_UNVERIFIED)
        return remembered(pod, error);
    enroll_describe(agent, pod, &p);
    h->walked_at = loop_now(agent->loop);
    r = steer_pod_verify(agent->steer, &p, &findings);
    if (r == 0)
        verify_listeners(agent, pod, may_repair, &findings);
    if (r < 0) {
        error->reason = BRUMA_REASON_CAPTURE_UNVERIFIED;
        snprintf(error->text, sizeof(error->text), "the capture cannot be verified: %s", strerror(-r));
        left = (struct steer_findings){.reasons = {error->reason}, .len = 1};
    } else if (findings.len == 0) {
        verified(pod);
        /* Without it the next look is a verification again. */
        exclusions_follow(agent, pod);
        dns_follow(agent, pod);
        if (same_node_follow(agent, pod))
            (void)steer_quick_check_arm(agent->steer, &p, &h->quick_check);
        else
            steer_quick_check_close(&h->quick_check);
        return 0;
    } else if (is_going_down(&findings)) {
        return wait_for_loopback(pod, error);
    } else if (!may_repair) {
        error->reason = findings.reasons[0];
        snprintf(error->text, sizeof(error->text), "%s", reason_what(findings.reasons[0]));
        return -EIO;
    } else if (early && same(&findings, &h->unrepaired)) {
        return remembered(pod, error);
    } else {
        r = repair(agent, pod, &findings, &left, error);
    }
    if (r < 0) {
        put_off(agent, pod, &left, error);
        return r;
    }
    verified(pod);
    exclusions_follow(agent, pod);
    dns_follow(agent, pod);
    (void)same_node_follow(agent, pod);
    return 1;
}
