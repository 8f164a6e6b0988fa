/* SPDX-License-Identifier: Apache-2.0 */
#define LOG_SCOPE "direct"
#include "proxy/direct/cutter.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "bruma/maps.h"
#include "lib/cleanup.h"
#include "lib/list.h"
#include "lib/log.h"
#include "lib/reasons.h"
#include "proxy/direct/socket_destroy.h"
#include "proxy/route/policy.h"
#include "proxy/state/rcu.h"

#define FLOWS_AT_ONCE 1024
#define CONDEMNED_MAX 4096 /* connections that wait for their end */
#define NEVER         UINT64_MAX

/* Milliseconds after the change. A SYN is answered by Linux for about a minute until it is forgotten. */
static const uint64_t looks[] = {0, 300, 1000, 4000, 16000, 64000, 135000};

/* A pod whose connections are looked at. Under the lock. */
struct wanted {
    struct list node;
    uint64_t cookie, asked, missing_since; /* asked, missing_since: milliseconds; 0: no policy is missing */
    uint64_t next;                         /* NEVER: it is not looked at any more */
    size_t look;                           /* index of next in looks */
    int netns_fd;
    bool outside; /* its own connections end */
    const struct workload *workload;
    char name[BRUMA_POD_NAME_LEN];
};

/* The same, copied for one look. */
struct suspect {
    uint64_t cookie;
    int netns_fd;
    bool outside, final, missing;
    const struct workload *workload;
    struct socket_destroyer *destroyer; /* once there is something to be ended */
    unsigned ended;
    char name[BRUMA_POD_NAME_LEN];
};

/* One connection. Under the lock. */
struct condemned {
    struct list node;
    int netns_fd;
    uint64_t socket;
    struct bruma_tuple tuple;
};

struct cutter {
    struct cutter_config config;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t news;
    bool stop;
    struct list wanted, condemned;
    size_t condemned_len;
    atomic_uint_fast64_t ended;
    /* the thread's */
    bool unable;
    uint64_t keys[FLOWS_AT_ONCE];
    struct bruma_flow flows[FLOWS_AT_ONCE];
};

static uint64_t now_milliseconds(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

/* ---- what is judged ---- */

static void read_endpoint(struct endpoint *to, const struct bruma_address *address, uint32_t port)
{
    memcpy(to->addr.bytes, address->bytes, sizeof(to->addr.bytes));
    to->port = (uint16_t)port;
}

bool cutter_condemns(const struct state *state, const struct workload *workload,
                     const struct bruma_flow *flow, bool final, bool *ret_missing)
{
    struct policy_request request = {};
    struct policy_verdict verdict;

    read_endpoint(&request.source, &flow->tuple.remote_address, flow->tuple.remote_port);
    read_endpoint(&request.destination, &flow->tuple.local_address, flow->tuple.local_port);
    policy_check(state, workload, &request, &verdict);
    if (verdict.allowed)
        return false;
    if (!verdict.unknown || final)
        return true;
    *ret_missing = true;
    return false;
}

static int by_cookie(const void *a, const void *b)
{
    const struct suspect *x = a, *y = b;

    return x->cookie < y->cookie ? -1 : x->cookie > y->cookie;
}

static bool is_to_end(struct cutter *cutter, struct suspect *s, const struct bruma_flow *flow)
{
    if (flow->state != BRUMA_FLOW_ESTABLISHED)
        return false; /* a later look finds it */
    if (flow->way == BRUMA_DIRECT_OUTSIDE)
        return s->outside;
    return flow->way == BRUMA_DIRECT_PASS && s->workload &&
           cutter_condemns(cutter->config.state, s->workload, flow, s->final, &s->missing);
}

static void give_up(struct cutter *cutter, int error)
{
    if (cutter->unable)
        return;
    cutter->unable = true;
    cutter->config.unable(cutter->config.data, error);
}

/* True: it has ended now. name: of the pod, or NULL. */
static bool destroy(struct cutter *cutter, int netns_fd, struct socket_destroyer **destroyer, uint64_t socket,
                    const struct bruma_tuple *tuple, const char *name)
{
    int r = *destroyer ? 0 : socket_destroyer_new(netns_fd, destroyer);

    if (r == 0)
        r = socket_destroy(*destroyer, tuple, socket);
    if (r == 0)
        atomic_fetch_add_explicit(&cutter->ended, 1, memory_order_relaxed);
    else if (r == -EOPNOTSUPP || r == -EPERM)
        give_up(cutter, r);
    else if (r != -ENOENT)
        log_warn_errno(r, "a direct connection that is not allowed any more cannot be ended now\tpod=\"%s\"",
                       name ? name : "");
    return r == 0;
}

static void end_flow(struct cutter *cutter, struct suspect *s, uint64_t socket, const struct bruma_flow *flow)
{
    s->ended += destroy(cutter, s->netns_fd, &s->destroyer, socket, &flow->tuple, s->name);
}

static void free_condemned(struct condemned *c)
{
    close(c->netns_fd);
    free(c);
}

/* Called under the lock, which it leaves meanwhile. */
static void end_condemned(struct cutter *cutter)
{
    while (!list_empty(&cutter->condemned)) {
        struct condemned *c = list_first(&cutter->condemned, struct condemned, node);
        struct socket_destroyer *destroyer = NULL;

        list_del(&c->node);
        cutter->condemned_len--;
        pthread_mutex_unlock(&cutter->lock);
        (void)destroy(cutter, c->netns_fd, &destroyer, c->socket, &c->tuple, NULL);
        socket_destroyer_free(&destroyer);
        free_condemned(c);
        pthread_mutex_lock(&cutter->lock);
    }
}

/* Fills keys and flows from behind *position on. Returns how many, or -errno; *more: there are others. */
static int read_flows(struct cutter *cutter, uint64_t *position, bool *first, bool *more)
{
    union bpf_attr attr;
    uint64_t next = 0;
    long r;

    memset(&attr, 0, sizeof(attr));
    attr.batch.map_fd = (uint32_t)cutter->config.flows_fd;
    attr.batch.in_batch = *first ? 0 : (uint64_t)(uintptr_t)position;
    attr.batch.out_batch = (uint64_t)(uintptr_t)&next;
    attr.batch.keys = (uint64_t)(uintptr_t)cutter->keys;
    attr.batch.values = (uint64_t)(uintptr_t)cutter->flows;
    attr.batch.count = FLOWS_AT_ONCE;
    r = syscall(SYS_bpf, BPF_MAP_LOOKUP_BATCH, &attr, sizeof(attr));
    if (r < 0 && errno != ENOENT)
        return -errno;
    *more = r == 0;
    *first = false;
    *position = next;
    return (int)attr.batch.count;
}

/* One walk for all of them. */
static void walk(struct cutter *cutter, struct suspect *suspects, size_t len)
{
    bool first = true, more = true, condemned[FLOWS_AT_ONCE];
    uint64_t position = 0;

    while (more) {
        int n = read_flows(cutter, &position, &first, &more);

        if (n < 0) {
            give_up(cutter, n);
            return;
        }
        reader_online();
        for (int i = 0; i < n; i++) {
            const struct suspect key = {.cookie = cutter->flows[i].netns_cookie};
            struct suspect *s = bsearch(&key, suspects, len, sizeof(*suspects), by_cookie);

            condemned[i] = s && is_to_end(cutter, s, &cutter->flows[i]);
        }
        reader_offline();
        for (int i = 0; i < n; i++) {
            const struct suspect key = {.cookie = cutter->flows[i].netns_cookie};

            if (condemned[i])
                end_flow(cutter, bsearch(&key, suspects, len, sizeof(*suspects), by_cookie), cutter->keys[i],
                         &cutter->flows[i]);
        }
    }
}

/* ---- which pods ---- */

static struct wanted *find(struct cutter *cutter, uint64_t cookie)
{
    struct wanted *w;

    list_for_each (w, &cutter->wanted, node) {
        if (w->cookie == cookie)
            return w;
    }
    return NULL;
}

static void drop(struct wanted *w)
{
    list_del(&w->node);
    workload_unref(w->workload);
    close(w->netns_fd);
    free(w);
}

/* Takes those whose time has come, under the lock. Returns how many, or 0 with the time of the next. */
static size_t take_due(struct cutter *cutter, struct suspect **ret, uint64_t *ret_next)
{
    uint64_t now = now_milliseconds();
    size_t len = 0, n = 0;
    struct wanted *w;

    *ret_next = NEVER;
    list_for_each (w, &cutter->wanted, node) {
        len += w->next <= now;
        if (w->next < *ret_next)
            *ret_next = w->next;
    }
    if (!len)
        return 0;
    *ret = calloc(len, sizeof(**ret));
    if (!*ret) {
        *ret_next = now + 100;
        return 0;
    }
    list_for_each (w, &cutter->wanted, node) {
        struct suspect *s = &(*ret)[n];

        if (w->next > now || n == len)
            continue;
        s->netns_fd = fcntl(w->netns_fd, F_DUPFD_CLOEXEC, 0);
        if (s->netns_fd < 0) {
            w->next = now + 100;
            continue;
        }
        s->cookie = w->cookie;
        s->outside = w->outside;
        s->final = w->missing_since && now - w->missing_since >= cutter->config.policy_timeout;
        s->workload = w->workload;
        if (s->workload)
            workload_ref(s->workload);
        memcpy(s->name, w->name, sizeof(s->name));
        w->look++;
        w->next = w->look < array_size(looks) ? w->asked + looks[w->look] : NEVER;
        n++;
    }
    if (n)
        qsort(*ret, n, sizeof(**ret), by_cookie);
    else
        free(*ret);
    return n;
}

/* A policy is missing: it is looked at again when the patience for it ends. */
static void remember_missing(struct cutter *cutter, const struct suspect *s)
{
    struct wanted *w = find(cutter, s->cookie);
    uint64_t until;

    if (!w)
        return;
    if (!s->missing) {
        w->missing_since = 0;
        return;
    }
    if (!w->missing_since)
        w->missing_since = now_milliseconds();
    until = w->missing_since + cutter->config.policy_timeout;
    if (until < w->next)
        w->next = until;
}

static void look(struct cutter *cutter, struct suspect *suspects, size_t len)
{
    walk(cutter, suspects, len);
    pthread_mutex_lock(&cutter->lock);
    for (size_t i = 0; i < len; i++)
        remember_missing(cutter, &suspects[i]);
    pthread_mutex_unlock(&cutter->lock);
    for (size_t i = 0; i < len; i++) {
        struct suspect *s = &suspects[i];

        if (s->ended)
            log_info("direct connections that are not allowed any more were ended\tpod=\"%s\" "
                     "connections=%u reason=%s",
                     s->name, s->ended, reason_name(BRUMA_REASON_POLICY_CHANGED));
        socket_destroyer_free(&s->destroyer);
        workload_unref(s->workload);
        close(s->netns_fd);
    }
    free(suspects);
}

static void wait_until(struct cutter *cutter, uint64_t milliseconds)
{
    struct timespec ts = {.tv_sec = (time_t)(milliseconds / 1000),
                          .tv_nsec = (long)(milliseconds % 1000) * 1000000};

    if (milliseconds == NEVER)
        pthread_cond_wait(&cutter->news, &cutter->lock);
    else
        pthread_cond_timedwait(&cutter->news, &cutter->lock, &ts);
}

static void *run(void *data)
{
    struct cutter *cutter = data;
    struct suspect *suspects;
    uint64_t next;
    size_t len;

    pthread_setname_np(pthread_self(), "cutter");
    reader_register();
    reader_offline();
    pthread_mutex_lock(&cutter->lock);
    while (!cutter->stop) {
        end_condemned(cutter);
        len = take_due(cutter, &suspects, &next);
        if (!len) {
            wait_until(cutter, next);
            continue;
        }
        pthread_mutex_unlock(&cutter->lock);
        look(cutter, suspects, len);
        pthread_mutex_lock(&cutter->lock);
    }
    pthread_mutex_unlock(&cutter->lock);
    reader_online();
    reader_unregister();
    return NULL;
}

/* ---- the control thread ---- */

static int start(struct cutter *cutter)
{
    pthread_condattr_t attr;
    int r;

    pthread_mutex_init(&cutter->lock, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&cutter->news, &attr);
    pthread_condattr_destroy(&attr);
    r = pthread_create(&cutter->thread, NULL, run, cutter);
    if (r) {
        pthread_cond_destroy(&cutter->news);
        pthread_mutex_destroy(&cutter->lock);
    }
    return -r;
}

int cutter_new(const struct cutter_config *config, struct cutter **ret)
{
    struct cutter *cutter;
    int r;

    if (!socket_destroy_works())
        return -EOPNOTSUPP;
    cutter = calloc(1, sizeof(*cutter));
    if (!cutter)
        return -ENOMEM;
    cutter->config = *config;
    list_init(&cutter->wanted);
    list_init(&cutter->condemned);
    cutter->config.flows_fd = fcntl(config->flows_fd, F_DUPFD_CLOEXEC, 0);
    r = cutter->config.flows_fd < 0 ? -errno : start(cutter);
    if (r < 0) {
        if (cutter->config.flows_fd >= 0)
            close(cutter->config.flows_fd);
        free(cutter);
        return r;
    }
    *ret = cutter;
    return 0;
}

void cutter_free(struct cutter **ptr)
{
    struct cutter *cutter = *ptr;

    if (!cutter)
        return;
    pthread_mutex_lock(&cutter->lock);
    cutter->stop = true;
    pthread_cond_signal(&cutter->news);
    pthread_mutex_unlock(&cutter->lock);
    pthread_join(cutter->thread, NULL);
    while (!list_empty(&cutter->wanted))
        drop(list_first(&cutter->wanted, struct wanted, node));
    while (!list_empty(&cutter->condemned)) {
        struct condemned *c = list_first(&cutter->condemned, struct condemned, node);

        list_del(&c->node);
        free_condemned(c);
    }
    pthread_cond_destroy(&cutter->news);
    pthread_mutex_destroy(&cutter->lock);
    close(cutter->config.flows_fd);
    free(cutter);
    *ptr = NULL;
}

/* Under the lock. NULL with errno set. */
static struct wanted *find_or_add(struct cutter *cutter, const struct cutter_pod *pod)
{
    struct wanted *w = find(cutter, pod->cookie);

    if (w)
        return w;
    w = calloc(1, sizeof(*w));
    if (!w)
        return NULL;
    w->netns_fd = fcntl(pod->netns_fd, F_DUPFD_CLOEXEC, 0);
    if (w->netns_fd < 0) {
        free(w);
        return NULL;
    }
    w->cookie = pod->cookie;
    snprintf(w->name, sizeof(w->name), "%s", pod->name);
    list_add_tail(&cutter->wanted, &w->node);
    return w;
}

static int want(struct cutter *cutter, const struct cutter_pod *pod, const struct workload *workload,
                bool outside)
{
    struct wanted *w;
    int r = 0;

    pthread_mutex_lock(&cutter->lock);
    w = find_or_add(cutter, pod);
    if (!w) {
        r = -errno;
    } else {
        if (workload) {
            workload_ref(workload);
            workload_unref(w->workload);
            w->workload = workload;
        }
        w->outside |= outside;
        w->asked = w->next = now_milliseconds();
        w->look = 0;
        pthread_cond_signal(&cutter->news);
    }
    pthread_mutex_unlock(&cutter->lock);
    return r;
}

int cutter_judge(struct cutter *cutter, const struct cutter_pod *pod, const struct workload *workload)
{
    return want(cutter, pod, workload, false);
}

int cutter_end_outside(struct cutter *cutter, const struct cutter_pod *pod)
{
    return want(cutter, pod, NULL, true);
}

void cutter_allow(struct cutter *cutter, uint64_t cookie, uint32_t ways)
{
    struct wanted *w;

    pthread_mutex_lock(&cutter->lock);
    w = find(cutter, cookie);
    if (w && ways & BRUMA_DIRECT_OUTSIDE)
        w->outside = false;
    if (w && ways & BRUMA_DIRECT_PASS) {
        workload_unref(w->workload);
        w->workload = NULL;
    }
    if (w && !w->outside && !w->workload)
        drop(w);
    pthread_mutex_unlock(&cutter->lock);
}

void cutter_look_again(struct cutter *cutter, uint64_t cookie)
{
    struct wanted *w;

    pthread_mutex_lock(&cutter->lock);
    w = find(cutter, cookie);
    if (w && w->workload) {
        w->next = now_milliseconds();
        w->look = 0;
        pthread_cond_signal(&cutter->news);
    }
    pthread_mutex_unlock(&cutter->lock);
}

int cutter_end(struct cutter *cutter, int netns_fd, uint64_t socket_cookie, const struct bruma_tuple *tuple)
{
    struct condemned *c = calloc(1, sizeof(*c));
    int r = 0;

    if (!c)
        return -ENOMEM;
    c->socket = socket_cookie;
    c->tuple = *tuple;
    c->netns_fd = fcntl(netns_fd, F_DUPFD_CLOEXEC, 0);
    if (c->netns_fd < 0) {
        r = -errno;
        free(c);
        return r;
    }
    pthread_mutex_lock(&cutter->lock);
    if (cutter->condemned_len < CONDEMNED_MAX) {
        list_add_tail(&cutter->condemned, &c->node);
        cutter->condemned_len++;
        pthread_cond_signal(&cutter->news);
    } else {
        r = -EAGAIN;
    }
    pthread_mutex_unlock(&cutter->lock);
    if (r < 0)
        free_condemned(c);
    return r;
}

void cutter_forget(struct cutter *cutter, uint64_t cookie)
{
    cutter_allow(cutter, cookie, BRUMA_DIRECT_OUTSIDE | BRUMA_DIRECT_PASS);
}

uint64_t cutter_ended(const struct cutter *cutter)
{
    return atomic_load_explicit(&cutter->ended, memory_order_relaxed);
}
