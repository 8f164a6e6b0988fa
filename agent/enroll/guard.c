/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/enroll/guard.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "agent/enroll/source.h"
#include "lib/cleanup.h"
#include "lib/reasons.h"

#define LOG_SCOPE "guard"
#include "lib/log.h"

#define LOOK        200  /* milliseconds between looks while it is closed */
#define SPENT_LOOK  2000 /* while it has opened at its limit and somebody is undecided still */
#define QUIET       1000 /* milliseconds that all must be decided: a sandbox has no process at first */
#define JUST_BOOTED 600  /* seconds; pods are young then, and may have been faster than the agent */

struct guard {
    struct agent *agent;
    guard_in_place_fn in_place; /* NULL where nobody waits for it to open */
    struct loop_timer timer;
    char cgroup[512]; /* "": not found yet */
    bool closed, strict;
    bool spent;            /* it opened at its limit, and not all has been decided since */
    bool complete;         /* the source has told of all pods, and the plugin's entry was in place */
    bool unseen;           /* that processes cannot be looked at was said */
    uint64_t since, until; /* loop time */
    uint64_t quiet_since;  /* 0: somebody is undecided */
    int undecided;         /* namespaces at the last look */
    const char *waits_for; /* in words, while it is closed */
    unsigned closings, gave_up;
    uint64_t closed_milliseconds; /* that it was closed for, the last time */
    enum bruma_reason reason;     /* of trouble */
    char error[256];
};

bool guard_wanted(const struct agent *agent)
{
    return agent->guard != NULL;
}

static uint64_t monotonic_nanoseconds(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

static bool is_strict(const struct agent_settings *c)
{
    return !strcmp(c->guard, "strict");
}

static void report_failure(struct guard *g, enum bruma_reason reason, const char *text)
{
    if (g->reason != reason || strcmp(g->error, text) != 0)
        log_error("the guard cannot do its work\treason=%s error=\"%s\"", reason_name(reason), text);
    g->reason = reason;
    snprintf(g->error, sizeof(g->error), "%s", text);
}

/* ---- closing ---- */

static int place(struct guard *g)
{
    const struct agent_settings *c = g->agent->settings;

    if (strcmp(c->guard_cgroup, "auto") == 0)
        return guard_find_cgroup(c->cgroup, g->cgroup, sizeof(g->cgroup));
    return snprintf(g->cgroup, sizeof(g->cgroup), "%s", c->guard_cgroup) >= (int)sizeof(g->cgroup)
               ? -ENAMETOOLONG
               : 0;
}

/* Attaches; again and again, for the kubelet may make its cgroup anew. */
static void attach(struct guard *g)
{
    struct agent *agent = g->agent;
    const struct agent_settings *c = agent->settings;
    struct steer_error error = {0};
    uint64_t until = UINT64_MAX, now = loop_now(agent->loop);
    int r = place(g);

    if (r == -ENOENT) {
        g->cgroup[0] = '\0';
        g->reason = BRUMA_REASON_NONE;
        return; /* no pod can run yet */
    }
    if (r < 0) {
        report_failure(g, BRUMA_REASON_GUARD_FAILED, strerror(-r));
        return;
    }
    if (!g->strict)
        until = monotonic_nanoseconds() + (g->until > now ? g->until - now : 0) * 1000000;
    if (steer_sandbox_pass(agent->steer, agent->own_cookie, BRUMA_SANDBOX_NODE, c->node) < 0 ||
        steer_guard_close(agent->steer, g->cgroup, until, &error) < 0)
        report_failure(g, error.reason ? error.reason : BRUMA_REASON_GUARD_FAILED,
                       error.reason ? error.text : "the map of sandboxes cannot be written");
    else
        g->reason = BRUMA_REASON_NONE;
}

/* The limit of an earlier closing has passed, and nobody has decided about all pods since. */
static bool is_spent(const struct guard *g)
{
    uint64_t until = steer_guard_closed_until(g->agent->steer);

    return !g->strict && until && until <= monotonic_nanoseconds();
}

/* An agent that comes and goes gets no more time by that. */
static uint64_t limit(const struct guard *g)
{
    uint64_t until = steer_guard_closed_until(g->agent->steer), now = monotonic_nanoseconds(), left;

    left = until > now ? (until - now) / 1000000 : UINT64_MAX;
    return left < g->agent->settings->guard_limit ? left : g->agent->settings->guard_limit;
}

/* Its limit passed while no agent was there, or an earlier one gave up: who is undecided has had the network
 * since, and closing again at every start would keep it from them for as long as agents come and go. */
static void stay_open(struct guard *g, const char *why)
{
    g->spent = true;
    g->gave_up++;
    g->since = loop_now(g->agent->loop);
    log_error("the guard stays open: its limit has passed already\treason=%s why=\"%s\" check=\"%s\"",
              reason_name(BRUMA_REASON_GUARD_GAVE_UP), why, reason_check(BRUMA_REASON_GUARD_GAVE_UP));
    steer_guard_lapse(g->agent->steer);
    loop_timer_set(g->agent->loop, &g->timer, LOOK);
}

void guard_close(struct guard *g, const char *why)
{
    if (!g)
        return;
    g->quiet_since = 0;
    if (g->closed) {
        attach(g);
        return;
    }
    /* An agent that has seen all pods once closes it for those that came past it since. */
    if (!g->complete && g->spent)
        return;
    if (!g->complete && is_spent(g)) {
        stay_open(g, why);
        return;
    }
    g->closed = true;
    g->spent = false;
    g->unseen = false;
    g->closings++;
    g->since = loop_now(g->agent->loop);
    g->until = g->since + limit(g);
    g->waits_for = "the first look";
    attach(g);
    log_info("the guard is closed\twhy=\"%s\" cgroup=%s inbound=%s", why, *g->cgroup ? g->cgroup : "none",
             steer_guard_holds_inbound(g->agent->steer) ? "held" : "not-held");
    loop_timer_set(g->agent->loop, &g->timer, LOOK);
}

/* ---- opening ---- */

static int count_undecided(const struct guard *g)
{
    _cleanup_free_ uint64_t *cookies = NULL;
    int n = *g->cgroup ? guard_namespaces(g->cgroup, g->agent->settings->proc, &cookies) : 0, count = 0;

    for (int i = 0; i < n; i++)
        count += !steer_sandbox_decided(g->agent->steer, cookies[i]);
    return n < 0 ? n : count;
}

/* Entries of pods that went while nobody looked. Namespaces' cookies are never used again, so this is only
 * about room. */
static void sweep(struct guard *g)
{
    _cleanup_free_ uint64_t *known = NULL, *living = NULL;
    int n = steer_sandboxes(g->agent->steer, &known);
    int l = *g->cgroup ? guard_namespaces(g->cgroup, g->agent->settings->proc, &living) : 0;

    for (int i = 0; l >= 0 && i < n; i++) {
        bool lives = known[i] == g->agent->own_cookie || pods_by_cookie(&g->agent->pods, known[i]);

        for (int k = 0; k < l && !lives; k++)
            lives = living[k] == known[i];
        if (!lives)
            (void)steer_sandbox_forget(g->agent->steer, known[i]);
    }
}

/* All is decided. */
static void open_guard(struct guard *g)
{
    steer_guard_open(g->agent->steer);
    if (g->closed)
        g->closed_milliseconds = loop_now(g->agent->loop) - g->since;
    g->closed = g->spent = false;
    g->waits_for = NULL;
    loop_timer_cancel(&g->timer);
    sweep(g);
}

static const char *what_is_missing(struct guard *g)
{
    if (!source_ready(g->agent))
        return source_not_ready(g->agent);
    if (!g->in_place(g->agent))
        return "bruma-cni is not in the network that the runtime loads";
    g->complete = true;
    g->undecided = count_undecided(g);
    if (g->undecided < 0) {
        if (!g->unseen)
            log_error(
                "the guard cannot inspect the processes of pods\treason=%s cgroup=%s proc=%s error=\"%s\"",
                reason_name(BRUMA_REASON_GUARD_FAILED), g->cgroup, g->agent->settings->proc,
                strerror(-g->undecided));
        g->unseen = true;
        return "the processes of pods cannot be inspected";
    }
    return g->undecided ? "pods that run are not captured, and not known to belong outside the mesh" : NULL;
}

static void give_up(struct guard *g)
{
    g->gave_up++;
    log_error(
        "the guard opens although not all is decided\treason=%s waits-for=\"%s\" undecided=%d check=\"%s\"",
        reason_name(BRUMA_REASON_GUARD_GAVE_UP), g->waits_for, g->undecided,
        reason_check(BRUMA_REASON_GUARD_GAVE_UP));
    steer_guard_lapse(g->agent->steer);
    g->closed = false;
    g->spent = true;
    g->closed_milliseconds = loop_now(g->agent->loop) - g->since;
    sweep(g);
    loop_timer_set(g->agent->loop, &g->timer, SPENT_LOOK);
}

static void on_look(struct loop_timer *timer)
{
    struct guard *g = container_of(timer, struct guard, timer);
    uint64_t now = loop_now(g->agent->loop);

    if (g->closed)
        attach(g);
    else
        (void)place(g);
    g->waits_for = what_is_missing(g);
    if (g->waits_for)
        g->quiet_since = 0;
    else if (!g->quiet_since)
        g->quiet_since = now;
    if (!g->waits_for && now - g->quiet_since >= QUIET) {
        log_info(g->closed ? "the guard is open\tmilliseconds=%" PRIu64
                           : "all pods are decided about\tmilliseconds=%" PRIu64,
                 now - g->since);
        open_guard(g);
        return;
    }
    if (!g->waits_for)
        g->waits_for = "a quiet second";
    if (g->closed && !g->strict && now >= g->until) {
        give_up(g);
        return;
    }
    loop_timer_set(g->agent->loop, &g->timer, g->closed ? LOOK : SPENT_LOOK);
}

/* ---- what is decided ---- */

void guard_pass(const struct agent *agent, uint64_t cookie, const char *namespace, const char *name)
{
    char text[BRUMA_POD_NAME_LEN];
    int r;

    if (!agent->guard || !cookie || cookie == agent->own_cookie)
        return;
    snprintf(text, sizeof(text), "%.63s/%.63s", namespace, name);
    r = steer_sandbox_pass(agent->steer, cookie, BRUMA_SANDBOX_OUTSIDE, text);
    if (r < 0)
        log_error("a pod outside the mesh cannot be let past the guard\tpod=\"%s\" error=\"%s\"", text,
                  strerror(-r));
}

void guard_forget(const struct agent *agent, uint64_t cookie)
{
    if (agent->guard && cookie && cookie != agent->own_cookie)
        (void)steer_sandbox_forget(agent->steer, cookie);
}

/* ---- the whole ---- */

static struct guard *make(struct agent *agent)
{
    struct guard *g = calloc(1, sizeof(*g));

    if (!g)
        return NULL;
    g->agent = agent;
    g->strict = is_strict(agent->settings);
    loop_timer_init(&g->timer, on_look);
    return g;
}

static bool is_pinned(const struct agent_settings *c, const char *map)
{
    char path[600];

    snprintf(path, sizeof(path), "%s/maps/%s", c->pin_dir, map);
    return access(path, F_OK) == 0;
}

/* Bruma was here before: a node's disk outlives a boot. */
static bool has_plugin(const struct agent_settings *c, bool installs)
{
    char path[600];

    if (!installs || !*c->cni_bin_dir)
        return true; /* somebody else puts it there, before the first agent */
    snprintf(path, sizeof(path), "%s/bruma-cni", c->cni_bin_dir);
    return access(path, F_OK) == 0;
}

bool guard_is_due(const struct agent_settings *c, bool installs)
{
    struct timespec up;

    if (is_pinned(c, "sandboxes"))
        return true;
    if (is_pinned(c, "pods"))
        return false; /* of a version without a guard, which has decided about nobody */
    clock_gettime(CLOCK_BOOTTIME, &up);
    return has_plugin(c, installs) || up.tv_sec < JUST_BOOTED;
}

int guard_start(struct agent *agent, bool due, guard_in_place_fn in_place, struct guard **ret)
{
    const struct agent_settings *c = agent->settings;

    if (!strcmp(c->guard, "off") || strcmp(c->source, "kubernetes") != 0) {
        steer_guard_open(agent->steer); /* an earlier agent's */
        return 0;
    }
    *ret = make(agent);
    if (!*ret)
        return -ENOMEM;
    (*ret)->in_place = in_place;
    if (due)
        guard_close(*ret, "the agent starts");
    else
        log_info("the guard stays open: Bruma is new on this node");
    return 0;
}

void guard_stop(struct guard **guard)
{
    if (!*guard)
        return;
    loop_timer_cancel(&(*guard)->timer);
    free(*guard);
    *guard = NULL;
}

int guard_close_before_boot(struct agent *agent)
{
    const struct agent_settings *c = agent->settings;
    struct guard *g;
    int r = 0;

    if (!strcmp(c->guard, "off"))
        return 0;
    /* The kubelet, or systemd for it, takes a directory that is there already. */
    if (strcmp(c->guard_cgroup, "auto") != 0 && mkdir(c->guard_cgroup, 0755) < 0 && errno != EEXIST)
        return log_error_errno(errno, "the pods' cgroup cannot be made\tguard-cgroup=%s", c->guard_cgroup);
    g = make(agent);
    if (!g)
        return -ENOMEM;
    guard_close(g, "the node boots");
    if (g->closed && !*g->cgroup)
        r = log_error_errno(-ENOENT, "there is no cgroup of pods below %s yet; set --guard-cgroup",
                            c->cgroup);
    else if (g->reason)
        r = -EIO;
    guard_stop(&g);
    return r;
}

bool guard_is_closed(const struct guard *g)
{
    return g && g->closed;
}

unsigned guard_gave_up(const struct guard *g)
{
    return g ? g->gave_up : 0;
}

enum bruma_reason guard_failure(const struct guard *g, const char **ret_text)
{
    if (!g || (!g->reason && !g->gave_up))
        return BRUMA_REASON_NONE;
    *ret_text = g->reason ? g->error : reason_what(BRUMA_REASON_GUARD_GAVE_UP);
    return g->reason ? g->reason : BRUMA_REASON_GUARD_GAVE_UP;
}

void guard_report(const struct agent *agent, cJSON *object)
{
    const struct guard *g = agent->guard;
    cJSON *o = cJSON_AddObjectToObject(object, "guard");

    cJSON_AddStringToObject(o, "mode", g ? agent->settings->guard : "off");
    if (!g)
        return;
    cJSON_AddBoolToObject(o, "closed", g->closed);
    cJSON_AddBoolToObject(o, "holdsInbound", steer_guard_holds_inbound(agent->steer));
    cJSON_AddStringToObject(o, "cgroup", g->cgroup);
    cJSON_AddNumberToObject(o, "closings", g->closings);
    cJSON_AddNumberToObject(o, "gaveUp", g->gave_up);
    if (g->closed) {
        cJSON_AddStringToObject(o, "waitsFor", g->waits_for);
        cJSON_AddNumberToObject(o, "undecided", g->undecided > 0 ? g->undecided : 0);
        cJSON_AddNumberToObject(o, "closedMilliseconds", (double)(loop_now(agent->loop) - g->since));
    } else {
        cJSON_AddNumberToObject(o, "closedMilliseconds", (double)g->closed_milliseconds);
    }
}
