/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/enroll/decisions.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "agent/agent.h"
#include "agent/enroll/source.h"
#include "agent/enroll/store.h"
#include "bruma/protocol.h"
#include "lib/message.h"

#define LOG_SCOPE "source"
#include "lib/log.h"

#define SOON_MS    200
#define UNKNOWN_MS 1000   /* until the source is looked at again, which may know all without a change */
#define AGAIN_MS   300000 /* the agent stands by what it has written */

static cJSON *decisions_of(struct decisions *d)
{
    cJSON *o = cJSON_CreateObject(), *namespaces = cJSON_AddObjectToObject(o, "namespaces"),
          *pods = cJSON_AddObjectToObject(o, "pods");

    cJSON_AddStringToObject(o, "withoutAgent", d->agent->settings->without_agent);
    cJSON_AddNumberToObject(o, "validSeconds", (double)(d->agent->settings->decisions_age / 1000));
    d->fill(d->data, namespaces, pods);
    return o;
}

static int write_decisions(struct decisions *d)
{
    _cleanup_message_ cJSON *o = decisions_of(d);
    char *what = o ? cJSON_PrintUnformatted(o) : NULL;
    _cleanup_free_ char *text = NULL;

    if (!what)
        return -ENOMEM;
    if (!d->last || strcmp(d->last, what) != 0)
        d->revision++;
    free(d->last);
    d->last = what;
    cJSON_AddNumberToObject(o, "revision", (double)d->revision);
    cJSON_AddNumberToObject(o, "writtenAt", (double)time(NULL));
    text = cJSON_PrintUnformatted(o);
    return text ? store_write(d->agent->settings->run_dir, BRUMA_DECISIONS, text) : -ENOMEM;
}

static void on_timer(struct loop_timer *timer)
{
    struct decisions *d = container_of(timer, struct decisions, timer);
    bool ready = d->ready(d->data);
    int r = ready ? write_decisions(d) : 0;

    if (r < 0)
        log_warn_errno(r, "decisions cannot be kept: without an agent the older ones count, or pods wait");
    loop_timer_set(d->agent->loop, timer, ready ? AGAIN_MS : UNKNOWN_MS);
}

void decisions_open(struct decisions *d)
{
    struct timespec now;

    /* those of one agent come after those of the one before */
    (void)clock_gettime(CLOCK_REALTIME, &now);
    d->revision = (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
    loop_timer_init(&d->timer, on_timer);
    decisions_touch(d);
}

void decisions_touch(struct decisions *d)
{
    uint64_t now;

    if (!d->timer.node.next)
        return;
    now = loop_now(d->agent->loop);
    if (!loop_timer_armed(&d->timer) || d->timer.due > now + SOON_MS)
        loop_timer_set(d->agent->loop, &d->timer, SOON_MS);
}

void decisions_close(struct decisions *d)
{
    if (d->timer.node.next)
        loop_timer_cancel(&d->timer);
    free(d->last);
    d->last = NULL;
}

/* ---- of the mesh file ---- */

static bool file_ready(void *data)
{
    return source_ready(data);
}

static void file_fill(void *data, cJSON *namespaces, cJSON *pods)
{
    const struct agent *agent = data;
    const struct pod *pod;
    const char *why;

    agent->source->ops->outside(agent->source, namespaces);
    list_for_each (pod, &agent->pods.list, node)
        cJSON_AddStringToObject(pods, pod->uid,
                                source_wanted(agent, pod, &why) ? BRUMA_INSIDE : BRUMA_OUTSIDE_ALWAYS);
}

void file_decisions_open(struct agent *agent)
{
    agent->decisions.agent = agent->decisions.data = agent;
    agent->decisions.ready = file_ready;
    agent->decisions.fill = file_fill;
    decisions_open(&agent->decisions);
}
