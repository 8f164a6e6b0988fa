/* SPDX-License-Identifier: Apache-2.0 */
#include "watchdog.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>

#include "adopt.h"
#include "enroll.h"
#include "netns.h"
#include "probes.h"
#include "reasons.h"

#define LOG_SCOPE "watchdog"
#include "log.h"

#define TICK          400 /* milliseconds; a vanished namespace is noticed within two of them */
#define LOOK          2000 /* milliseconds between looks for processes of a namespace whose name is not there */
#define FIRST_PROCESS 60   /* seconds that a sandbox may take to get one */
#define VERIFY_SOON   50   /* milliseconds from the first hint on, so that a burst of hints is one look */
#define HINTS_A_TURN  64   /* datagrams read at a time; a pod that floods its own rules slows nobody */

static void count(struct agent *agent, struct pod *pod, const struct steer_findings *findings)
{
    for (int i = 0; i < findings->len; i++) {
        enum bruma_reason reason = findings->reasons[i];

        if (reason >= BRUMA_REASON_COUNT)
            continue;
        pod->mends[reason]++;
        agent->mends[reason]++;
        log_warn("capture of a pod was broken and is mended\tpod=\"%s/%s\" reason=%s detail=\"%s\"",
                 pod->namespace, pod->name, reason_name(reason), reason_what(reason));
    }
}

static int reopen(struct pod *pod, const struct steer_findings *findings, struct steer_error *error)
{
    for (int i = 0; i < BRUMA_LISTENER_COUNT; i++) {
        if (!findings->closed_listeners[i] || pod->listeners[i] < 0)
            continue;
        close(pod->listeners[i]);
        pod->listeners[i] = -1;
    }
    return steer_listeners_open(pod->netns_fd, pod->listeners, error);
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
 * and nothing that the agent could mend. */
static void judge_listeners(struct agent *agent, struct pod *pod, bool may_mend,
                            struct steer_findings *findings)
{
    bool closed = any_closed(findings);

    if (!proxies_open_listeners(agent->proxies))
        return;
    if (!closed)
        closed = steer_foreign_listeners_live(pod->netns_fd, pod->listener_cookies) == 0;
    take_out(findings, BRUMA_REASON_LISTENER_CLOSED);
    if (!closed)
        return;
    if (!proxies_serving(agent->proxies)) {
        if (pod->last_reason != BRUMA_REASON_PROXY_AWAY)
            log_warn("nobody serves a pod: its connections are dropped\tpod=\"%s/%s\" reason=%s",
                     pod->namespace, pod->name, reason_name(BRUMA_REASON_PROXY_AWAY));
        pod_set_error(pod, BRUMA_REASON_PROXY_AWAY, reason_what(BRUMA_REASON_PROXY_AWAY));
    } else if (!may_mend) {
        findings->reasons[findings->len++] = BRUMA_REASON_LISTENER_CLOSED;
    } else if (!strcmp(proxies_pod_state(agent->proxies, pod), "serving")) {
        const struct steer_findings lost = {.reasons = {BRUMA_REASON_LISTENER_CLOSED}, .len = 1};

        count(agent, pod, &lost);
        proxies_pod_reopen(agent->proxies, pod);
    }
}

static int mend(struct agent *agent, struct pod *pod, const struct steer_findings *findings,
                struct steer_error *error)
{
    struct steer_findings left = {0};
    bool replaced = any_closed(findings);
    struct steer_pod p;
    int r = replaced ? reopen(pod, findings, error) : 0;

    if (r < 0)
        return r;
    enroll_describe(agent, pod, &p);
    r = steer_pod_mend(agent->steer, &p, findings, error);
    if (replaced)
        proxies_pod_add(agent->proxies, pod);
    if (r < 0)
        return r;
    r = steer_pod_verify(agent->steer, &p, &left);
    if (proxies_open_listeners(agent->proxies))
        take_out(&left, BRUMA_REASON_LISTENER_CLOSED);
    if (r == 0 && left.len > 0) {
        error->reason = left.reasons[0];
        snprintf(error->text, sizeof(error->text), "mended, and broken again at once: %s",
                 reason_what(left.reasons[0]));
        r = -EIO;
    }
    return r;
}

static bool is_going_down(const struct steer_findings *findings)
{
    return findings->len > 0 && findings->reasons[0] == BRUMA_REASON_LOOPBACK_DOWN;
}

/* The runtime takes the device down before it tells of the pod's end. Nobody's fault, and nothing to mend. */
static int wait_for_loopback(struct pod *pod, struct steer_error *error)
{
    error->reason = BRUMA_REASON_LOOPBACK_DOWN;
    snprintf(error->text, sizeof(error->text), "%s", reason_what(error->reason));
    if (pod->last_reason != error->reason)
        log_info("a pod's loopback device is down\tpod=\"%s/%s\" reason=%s", pod->namespace, pod->name,
                 reason_name(error->reason));
    pod_set_error(pod, error->reason, error->text);
    return -ENETDOWN;
}

static void verified(struct pod *pod)
{
    if (pod->last_reason == BRUMA_REASON_LOOPBACK_DOWN)
        pod_set_error(pod, BRUMA_REASON_NONE, "");
    pod->verified_at = (int64_t)time(NULL);
}

int watchdog_verify(struct agent *agent, struct pod *pod, bool may_mend, struct steer_error *error)
{
    struct steer_findings findings = {0};
    struct steer_pod p;
    int r;

    enroll_describe(agent, pod, &p);
    r = steer_pod_verify(agent->steer, &p, &findings);
    if (r == 0)
        judge_listeners(agent, pod, may_mend, &findings);
    if (r < 0) {
        error->reason = BRUMA_REASON_INTERNAL;
        snprintf(error->text, sizeof(error->text), "the capture cannot be verified: %s", strerror(-r));
    } else if (findings.len == 0) {
        verified(pod);
        return 0;
    } else if (is_going_down(&findings)) {
        return wait_for_loopback(pod, error);
    } else if (!may_mend) {
        error->reason = findings.reasons[0];
        snprintf(error->text, sizeof(error->text), "%s", reason_what(findings.reasons[0]));
        return -EIO;
    } else {
        count(agent, pod, &findings);
        r = mend(agent, pod, &findings, error);
    }
    if (r < 0) {
        pod_set_error(pod, error->reason, error->text);
        log_error("capture of a pod cannot be mended\tpod=\"%s/%s\" reason=%s error=\"%s\"", pod->namespace,
                  pod->name, reason_name(error->reason), error->text);
        return r;
    }
    verified(pod);
    return 1;
}

static void verify_pod(struct agent *agent, struct pod *pod)
{
    struct steer_error error = {0};

    if (pod->awaits_listeners)
        adopt_check(agent, pod);
    if (pod->state != POD_ENROLLED || pod->awaits_listeners)
        return;
    /* Its outcome was logged and is in the pod's record. */
    (void)watchdog_verify(agent, pod, true, &error);
    proxies_pod_retry(agent->proxies, pod);
}

static void verify_cgroup(struct agent *agent)
{
    struct steer_error error = {0};
    int r = steer_cgroup_verify(agent->steer);

    if (r == 0) {
        agent->cgroup_reason = BRUMA_REASON_NONE;
        return;
    }
    agent->cgroup_reason = BRUMA_REASON_CGROUP_LINK_DETACHED;
    snprintf(agent->cgroup_error, sizeof(agent->cgroup_error), "%s", strerror(-r));
    log_warn("the connect hooks are not attached\treason=%s error=\"%s\"",
             reason_name(BRUMA_REASON_CGROUP_LINK_DETACHED), strerror(-r));
    r = steer_cgroup_mend(agent->steer, &error);
    if (r < 0) {
        agent->cgroup_reason = error.reason;
        snprintf(agent->cgroup_error, sizeof(agent->cgroup_error), "%s", error.text);
        log_error("the connect hooks cannot be attached\treason=%s error=\"%s\"", reason_name(error.reason),
                  error.text);
        return;
    }
    agent->mends[BRUMA_REASON_CGROUP_LINK_DETACHED]++;
    agent->cgroup_reason = BRUMA_REASON_NONE;
}

static void on_verify(struct loop_timer *timer)
{
    struct agent *agent = container_of(timer, struct agent, verify);
    struct pod *pod;

    verify_cgroup(agent);
    list_for_each (pod, &agent->pods.list, node)
        verify_pod(agent, pod);
    probes_verify(agent);
    loop_timer_set(agent->loop, &agent->verify, agent->config->verify_interval);
}

/* A process lives in the namespace although its name is gone, or the agent never saw it: it must stay
 * captured. */
static bool process_inside(const struct agent *agent, const struct pod *pod)
{
    struct stat held = {.st_ino = pod->netns_inode}, st;
    bool by_descriptor = pod->netns_fd >= 0, found = false;
    DIR *proc = opendir(agent->config->proc);
    struct dirent *e;

    if (!proc || (by_descriptor && fstat(pod->netns_fd, &held) < 0) || !held.st_ino) {
        if (proc)
            closedir(proc);
        return false;
    }
    while (!found && (e = readdir(proc))) {
        char path[300];

        if (!isdigit((unsigned char)*e->d_name))
            continue;
        snprintf(path, sizeof(path), "%s/ns/net", e->d_name);
        found = fstatat(dirfd(proc), path, &st, 0) == 0 && st.st_ino == held.st_ino &&
                (!by_descriptor || st.st_dev == held.st_dev);
    }
    closedir(proc);
    return found;
}

static bool is_gone(struct agent *agent, struct pod *pod)
{
    uint64_t now = loop_now(agent->loop);

    if (pod_netns_present(pod)) {
        pod->netns_missing = 0;
        return false;
    }
    if (now < pod->netns_look)
        return false;
    /* A pod's first process comes a while after its sandbox. */
    if (process_inside(agent, pod) ||
        (pod->netns_unseen && (int64_t)time(NULL) - pod->added_at < FIRST_PROCESS)) {
        pod->netns_missing = 0;
        pod->netns_look = now + LOOK;
        return false;
    }
    /* Twice in a row: a runtime may still be busy mounting the name. */
    return pod->netns_missing++ > 0;
}

static void on_tick(struct loop_timer *timer)
{
    struct agent *agent = container_of(timer, struct agent, tick);
    struct pod *pod;

    list_for_each (pod, &agent->pods.list, node) {
        if (is_gone(agent, pod)) {
            enroll_remove(agent, pod, "its network namespace is gone");
            continue;
        }
        if (pod->awaits_listeners)
            adopt_check(agent, pod);
    }
    loop_timer_set(agent->loop, &agent->tick, TICK);
}

void watchdog_start(struct agent *agent)
{
    loop_timer_init(&agent->tick, on_tick);
    loop_timer_init(&agent->verify, on_verify);
    loop_timer_set(agent->loop, &agent->tick, TICK);
    loop_timer_set(agent->loop, &agent->verify, agent->config->verify_interval);
}

void watchdog_stop(struct agent *agent)
{
    loop_timer_cancel(&agent->tick);
    loop_timer_cancel(&agent->verify);
}

static void on_verify_soon(struct loop_timer *timer)
{
    struct pod *pod = container_of(timer, struct pod, verify_soon);

    verify_pod(pod->owner, pod);
}

void watchdog_look(struct agent *agent, struct pod *pod)
{
    pod->verify_soon.fn = on_verify_soon;
    if (!loop_timer_armed(&pod->verify_soon))
        loop_timer_set(agent->loop, &pod->verify_soon, VERIFY_SOON);
}

/* Our own changes cause such messages too; they are only a reason to look. */
static bool is_deletion(const char *buf, size_t len)
{
    for (const struct nlmsghdr *h = (const struct nlmsghdr *)buf; NLMSG_OK(h, len); h = NLMSG_NEXT(h, len)) {
        if (h->nlmsg_type == RTM_DELRULE || h->nlmsg_type == RTM_DELROUTE)
            return true;
    }
    return false;
}

static void on_routes(struct loop_watch *watch, uint32_t events)
{
    struct pod *pod = container_of(watch, struct pod, routes);
    struct agent *agent = pod->owner;
    char buf[16384] __attribute__((aligned(NLMSG_ALIGNTO)));
    bool look = false;

    (void)events;
    for (int i = 0; i < HINTS_A_TURN; i++) {
        ssize_t n = recv(watch->fd, buf, sizeof(buf), MSG_DONTWAIT);

        if (n < 0 && errno == ENOBUFS) {
            look = true; /* some were lost */
            continue;
        }
        if (n <= 0)
            break;
        look |= is_deletion(buf, (size_t)n);
    }
    if (look)
        watchdog_look(agent, pod);
}

static int routes_socket(int netns_fd)
{
    struct sockaddr_nl addr = {.nl_family = AF_NETLINK,
                               .nl_groups = RTMGRP_IPV4_RULE | RTMGRP_IPV4_ROUTE | RTMGRP_IPV6_ROUTE |
                                            (1u << (RTNLGRP_IPV6_RULE - 1))};
    _cleanup_fd_ int own = netns_open_own(), fd = -1;
    int r;

    if (own < 0)
        return own;
    r = netns_enter(netns_fd);
    if (r < 0)
        return r;
    fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, NETLINK_ROUTE);
    r = fd < 0 ? -errno : 0;
    /* The agent must not go on inside a pod. */
    if (netns_enter(own) < 0)
        abort();
    if (r < 0)
        return r;
    if (bind(fd, (struct sockaddr *)&addr, sizeof(addr)) < 0)
        return -errno;
    return take_fd(&fd);
}

void watchdog_follow(struct agent *agent, struct pod *pod)
{
    int fd, r;

    if (pod->routes.fd >= 0)
        return;
    fd = routes_socket(pod->netns_fd);
    r = fd < 0 ? fd : loop_watch_add(agent->loop, &pod->routes, fd, EPOLLIN, on_routes);
    if (r == 0)
        return;
    if (fd >= 0)
        close(fd);
    pod->routes.fd = -1;
    log_warn_errno(r, "rules and routes of a pod cannot be followed; the timer verifies them\tpod=\"%s/%s\"",
                   pod->namespace, pod->name);
}
