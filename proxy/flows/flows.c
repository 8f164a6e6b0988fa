/* SPDX-License-Identifier: Apache-2.0 */
#define LOG_SCOPE "flows"
#include "proxy/flows/flows.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

#include "lib/log.h"
#include "lib/metrics_text.h"
#include "lib/seqpacket.h"
#include "proxy/flows/flows_internal.h"
#include "proxy/otlp/otlp.h"
#include "proxy/state/rcu.h"
#include "proxy/telemetry/metric_series.h"
#include "proxy/worker/pod_notes.h"

#define REFRESH_WAIT 1 /* second */

/* ---- what the control thread posts ---- */

struct flows_message {
    struct flows *flows;
    int fds[FLOWS_FD_COUNT];
    struct pod_notes *notes;
    loop_post_fn done;
    void *data;
};

/* Without memory for a message the process would read what another one reads, or nothing. */
static int post(struct flows *f, loop_post_fn fn, const struct flows_message *fill)
{
    struct flows_message *m = malloc(sizeof(*m));
    int r = -ENOMEM;

    if (m) {
        *m = *fill;
        m->flows = f;
        r = loop_post(f->loop, fn, m);
    }
    if (r < 0)
        free(m);
    return r;
}

static void must_post(struct flows *f, loop_post_fn fn)
{
    if (post(f, fn, &(struct flows_message){}) == 0)
        return;
    log_error("out of memory: a message to the reader of direct connections is lost");
    abort();
}

static void do_take_maps(void *data)
{
    struct flows_message *m = data;

    flows_reader_take(m->flows, m->fds);
    free(m);
}

static void do_serve(void *data)
{
    struct flows_message *m = data;

    m->flows->wanted = true;
    flows_reader_look(m->flows);
    free(m);
}

static void do_let_go(void *data)
{
    struct flows_message *m = data;

    m->flows->wanted = false;
    flows_reader_look(m->flows);
    free(m);
}

static void do_end(void *data)
{
    struct flows_message *m = data;

    m->flows->wanted = false;
    flows_reader_look(m->flows);
    loop_stop(m->flows->loop);
    free(m);
}

static void do_refresh(void *data)
{
    struct flows_message *m = data;
    struct flows *f = m->flows;

    flows_reader_refresh(f);
    pthread_mutex_lock(&f->lock);
    f->refreshed++;
    f->asked = false;
    pthread_cond_broadcast(&f->told);
    pthread_mutex_unlock(&f->lock);
    free(m);
}

/* ---- notes of live connections ---- */

struct noting {
    struct flows *flows;
    struct pod_notes *notes;
    uint64_t cookie; /* of the pod that the last one was of */
    struct pod_note *pod;
};

static void note(void *data, struct flow_record *r)
{
    struct noting *n = data;
    struct connection_note c = {
        .client = r->flow.source_address,
        .destination = r->flow.destination_address,
        .actual = r->flow.destination_address,
        .received = r->flow.received,
        .sent = r->flow.sent,
        .inbound = r->inbound,
        .direct = true,
    };

    if (!n->cookie || n->cookie != r->netns_cookie) {
        struct pod *pod = flow_pods_find(n->flows->pods, r->netns_cookie);

        n->cookie = r->netns_cookie;
        n->pod = pod ? pod_notes_pod(n->notes, pod->uid) : NULL;
        if (pod)
            pod_unref(pod);
    }
    if (n->pod)
        (void)pod_note_connection(n->pod, &c); /* without memory the page has fewer */
}

static void do_note(void *data)
{
    struct flows_message *m = data;
    struct noting n = {.flows = m->flows, .notes = m->notes};

    flows_reader_refresh(m->flows);
    account_each(&m->flows->account, note, &n);
    loop_post(m->flows->proxy->loop, m->done, m->data);
    free(m);
}

bool flows_note(struct flows *f, struct pod_notes *notes, loop_post_fn done, void *data)
{
    const struct flows_message fill = {.notes = notes, .done = done, .data = data};

    return f && post(f, do_note, &fill) == 0;
}

/* ---- the thread ---- */

static void fail(void *data)
{
    struct proxy *p = data;

    if (p->fail)
        p->fail(p);
}

static void *run(void *data)
{
    struct flows *f = data;
    int r;

    pthread_setname_np(pthread_self(), "flows");
    reader_register();
    r = loop_run(f->loop);
    if (r < 0) {
        log_error_errno(r, "the reader of direct connections cannot go on");
        if (loop_post(f->proxy->loop, fail, f->proxy) < 0)
            loop_stop(f->proxy->loop);
    }
    account_clear(&f->account);
    reader_unregister();
    return NULL;
}

static void flows_free(struct flows *f)
{
    telemetry_free(&f->telemetry);
    flow_pods_free(&f->pods);
    close_fds(f->fds, FLOWS_FD_COUNT);
    free(f->account.buckets);
    if (f->lock_fd >= 0)
        close(f->lock_fd);
    loop_free(&f->loop);
    pthread_cond_destroy(&f->told);
    pthread_mutex_destroy(&f->lock);
    free(f);
}

int flows_start(struct proxy *proxy, struct flows **ret)
{
    struct flows *f = calloc(1, sizeof(*f));
    pthread_condattr_t clock;
    int r;

    if (!f)
        return -ENOMEM;
    pthread_mutex_init(&f->lock, NULL);
    pthread_condattr_init(&clock);
    pthread_condattr_setclock(&clock, CLOCK_MONOTONIC);
    pthread_cond_init(&f->told, &clock);
    pthread_condattr_destroy(&clock);
    f->proxy = proxy;
    f->lock_fd = -1;
    for (int i = 0; i < FLOWS_FD_COUNT; i++)
        f->fds[i] = -1;
    r = loop_new(&f->loop);
    if (r == 0)
        r = telemetry_new(f->loop, STDOUT_FILENO, proxy->settings.log_json, &f->telemetry);
    if (r == 0) {
        telemetry_measure(f->telemetry, proxy->settings.connection_metrics);
        telemetry_export(f->telemetry, otlp_queue_of(proxy->otlp, OTLP_LOGS),
                         otlp_queue_of(proxy->otlp, OTLP_TRACES), otlp_sampler_of(proxy->otlp));
        r = flow_pods_new(&f->pods);
    }
    f->account.telemetry = f->telemetry;
    f->account.state = proxy->state;
    f->account.pods = f->pods;
    if (getrandom(&f->account.random, sizeof(f->account.random), 0) != sizeof(f->account.random) ||
        !f->account.random)
        f->account.random = 1;
    if (r == 0)
        r = account_init(&f->account);
    if (r == 0)
        flows_reader_init(f);
    if (r == 0)
        r = -pthread_create(&f->thread, NULL, run, f);
    if (r < 0) {
        flows_free(f);
        return r;
    }
    *ret = f;
    return 0;
}

void flows_stop(struct flows **flows)
{
    struct flows *f = *flows;

    if (!f)
        return;
    must_post(f, do_end);
    pthread_join(f->thread, NULL);
    flows_free(f);
    *flows = NULL;
}

/* ---- the control thread's calls ---- */

void flows_set_judge(struct flows *f, const struct flows_judge *judge)
{
    if (f)
        f->account.judge = *judge; /* the thread looks at it for the first event, which comes after a post */
}

int flows_take_maps(struct flows *f, int control, int live, int events)
{
    const int from[FLOWS_FD_COUNT] = {control, live, events};
    struct flows_message fill = {};
    int r = 0;

    if (!f)
        return 0;
    for (int i = 0; i < FLOWS_FD_COUNT; i++) {
        fill.fds[i] = fcntl(from[i], F_DUPFD_CLOEXEC, 0);
        if (fill.fds[i] < 0 && r == 0)
            r = -errno;
    }
    if (r == 0)
        r = post(f, do_take_maps, &fill);
    if (r < 0)
        close_fds(fill.fds, FLOWS_FD_COUNT);
    return r;
}

void flows_pod_add(struct flows *f, struct pod *pod)
{
    if (f && !pod->own && flow_pods_add(f->pods, pod) < 0)
        log_error("out of memory: direct connections of pod %s/%s are nobody's", pod->namespace, pod->name);
}

void flows_pod_remove(struct flows *f, struct pod *pod)
{
    if (f)
        flow_pods_remove(f->pods, pod);
}

void flows_serve(struct flows *f)
{
    if (f)
        must_post(f, do_serve);
}

void flows_let_go(struct flows *f)
{
    if (f)
        must_post(f, do_let_go);
}

/* ---- metrics ---- */

struct telemetry *flows_telemetry(struct flows *f)
{
    return f ? f->telemetry : NULL;
}

void flows_refresh(struct flows *f)
{
    struct timespec until;
    uint64_t seen;

    if (!f)
        return;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += REFRESH_WAIT;
    pthread_mutex_lock(&f->lock);
    seen = f->refreshed;
    if (!f->asked)
        f->asked = post(f, do_refresh, &(struct flows_message){}) == 0;
    while (f->asked && f->refreshed == seen) {
        if (pthread_cond_timedwait(&f->told, &f->lock, &until) != 0)
            break;
    }
    pthread_mutex_unlock(&f->lock);
}

static void by_kind(const struct account *a, FILE *out)
{
    static const char *const kinds[] = {"not_understood", "opened", "closed", "failed", "refused"};
    bool any = false;

    for (size_t i = 0; i < array_size(kinds); i++) {
        uint64_t n = counter_read(&a->events[i]);

        if (!n)
            continue;
        if (!any)
            metric_family(out, "bruma_direct_events", "counter",
                          "What the kernel has told of direct connections, by kind.");
        any = true;
        metric_labelled(out, "bruma_direct_events_total", "kind", kinds[i], n);
    }
}

void flows_write_metrics(struct flows *f, FILE *out)
{
    const struct account *a;

    if (!f)
        return;
    a = &f->account;
    metric_gauge(out, "bruma_direct_reading", "1: this process reads what is told of direct connections.",
                 counter_read(&f->is_reading));
    metric_gauge(out, "bruma_direct_connections", "Direct connections that are open.",
                 counter_read(&a->live));
    by_kind(a, out);
    metric_counter(out, "bruma_direct_lost_events",
                   "Events of direct connections that found no room in the kernel's ring, as far as this "
                   "process has noticed.",
                   counter_read(&f->lost));
    metric_counter(out, "bruma_direct_broken_records",
                   "Times that the kernel's ring held what cannot be a record, and was skipped.",
                   counter_read(&f->broken));
    metric_counter(out, "bruma_direct_unknown_pods",
                   "Events of direct connections of pods that are not known.", counter_read(&a->strangers));
    metric_counter(out, "bruma_direct_ends_lost",
                   "Direct connections that were found gone, without an event of their end.",
                   counter_read(&a->endless));
}
