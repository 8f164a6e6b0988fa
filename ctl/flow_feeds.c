/* SPDX-License-Identifier: Apache-2.0 */
#include "ctl/flow_feeds.h"

#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "ctl/fleet.h"
#include "ctl/node_page.h"
#include "ctl/source.h"
#include "lib/cleanup.h"

#define STACK     (512u * 1024) /* bytes of a thread's: there may be as many as nodes */
#define RETRY_MAX 30000u        /* milliseconds between two attempts; they grow from FLOW_FEEDS_PERIOD */
#define KEPT      10.0          /* seconds: FLOW_FEED_IDLE of the proxy, which then keeps nothing */

struct feed {
    struct flow_feeds *all;
    pthread_t thread;
    /* the thread's */
    struct node_page page;
    double next;          /* number of the next line; 0: not known */
    uint64_t answered_at; /* milliseconds; 0: never */
    unsigned pause;       /* milliseconds until it is asked again */
    /* under the lock */
    struct flow_news news;
    bool full, ended;
};

struct flow_feeds {
    const struct ctl_options *options;
    pthread_mutex_t lock;
    pthread_cond_t change;
    bool finish; /* under the lock */
    bool stop;   /* atomic */
    size_t len, started;
    struct feed each[];
};

static uint64_t milliseconds(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

/* ---- one question ---- */

/* *ret: what the page says. 0 or -errno with words. */
static int ask_page(struct feed *f, cJSON **ret, char *error)
{
    struct received_body body;
    char path[64];
    int r;

    if (node_page_mend(&f->page))
        f->next = 0; /* another one counts its lines from the beginning */
    snprintf(path, sizeof(path), "/flows?after=%.0f", f->next);
    r = node_page_get(&f->page, path, &body, error);
    if (r < 0)
        return r;
    *ret = answer_parse(&f->page.place, body.data, body.len);
    free(body.data);
    if (cJSON_IsObject(*ret))
        return 0;
    cJSON_Delete(*ret);
    *ret = NULL;
    snprintf(error, PLACE_COMPLAINT_MAX, "its answer is not JSON");
    return -EPROTO;
}

/* What happened meanwhile is not known if the proxy has stopped to keep it, or is another one. */
static double gap_of(const struct feed *f, double next)
{
    double seconds = (double)(milliseconds() - f->answered_at) / 1000;

    return f->answered_at && (seconds > KEPT || !f->next || next < f->next) ? seconds : 0;
}

static void ask(struct feed *f, struct flow_news *ret)
{
    char error[PLACE_COMPLAINT_MAX] = "";

    *ret = (struct flow_news){.node = f->page.node};
    if (ask_page(f, &ret->answer, error) == 0) {
        ret->gap = gap_of(f, number_of(ret->answer, "next"));
        f->next = number_of(ret->answer, "next");
        f->answered_at = milliseconds();
        f->pause = FLOW_FEEDS_PERIOD;
        return;
    }
    snprintf(ret->complaint, sizeof(ret->complaint), "no answer of the proxy: %.600s", error);
    f->pause = f->pause * 2 > RETRY_MAX ? RETRY_MAX : f->pause * 2;
}

/* ---- its thread ---- */

static bool is_stopped(const struct flow_feeds *all)
{
    return __atomic_load_n(&all->stop, __ATOMIC_RELAXED);
}

/* Until what was told has been taken, and the pause is over. False: it is not asked any more. */
static bool wait_for_turn(struct feed *f, struct timespec until)
{
    struct flow_feeds *all = f->all;
    bool late = false, last;

    pthread_mutex_lock(&all->lock);
    while (!is_stopped(all) && (f->full || (!late && !all->finish))) {
        if (f->full)
            pthread_cond_wait(&all->change, &all->lock);
        else
            late = pthread_cond_timedwait(&all->change, &all->lock, &until) != 0;
    }
    last = all->finish;
    pthread_mutex_unlock(&all->lock);
    return !is_stopped(all) && !(last && f->pause > FLOW_FEEDS_PERIOD);
}

/* Whether there will be more. */
static bool tell(struct feed *f, struct flow_news *news, bool last)
{
    struct flow_feeds *all = f->all;

    pthread_mutex_lock(&all->lock);
    f->news = *news;
    f->full = true;
    f->ended = last;
    pthread_mutex_unlock(&all->lock);
    return !last;
}

static struct timespec in_milliseconds(unsigned pause)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    t.tv_sec += pause / 1000;
    t.tv_nsec += (long)(pause % 1000) * 1000000;
    t.tv_sec += t.tv_nsec / 1000000000;
    t.tv_nsec %= 1000000000;
    return t;
}

static void *follow(void *data)
{
    struct feed *f = data;
    struct flow_feeds *all = f->all;
    struct flow_news news;
    bool last = false;

    do {
        pthread_mutex_lock(&all->lock);
        last = all->finish;
        pthread_mutex_unlock(&all->lock);
        ask(f, &news);
    } while (tell(f, &news, last) && wait_for_turn(f, in_milliseconds(f->pause)));
    node_page_close(&f->page);
    pthread_mutex_lock(&all->lock);
    f->ended = true;
    pthread_mutex_unlock(&all->lock);
    return NULL;
}

/* ---- the whole ---- */

static int start(struct flow_feeds *all)
{
    pthread_attr_t attributes;
    sigset_t every, before;
    int r = 0;

    sigfillset(&every);
    pthread_sigmask(SIG_SETMASK, &every, &before);
    pthread_attr_init(&attributes);
    (void)pthread_attr_setstacksize(&attributes, STACK);
    for (; r == 0 && all->started < all->len; all->started += r == 0)
        r = -pthread_create(&all->each[all->started].thread, &attributes, follow, &all->each[all->started]);
    pthread_attr_destroy(&attributes);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return r;
}

int flow_feeds_open(const struct ctl_options *o, struct flow_feeds **ret)
{
    size_t len = o->fleet ? fleet_len(o->fleet) : 1;
    struct flow_feeds *all = calloc(1, sizeof(*all) + len * sizeof(all->each[0]));
    pthread_condattr_t monotonic;
    int r;

    if (!all)
        return -ENOMEM;
    all->options = o;
    all->len = len;
    for (size_t i = 0; i < len; i++) {
        struct feed *f = &all->each[i];

        f->all = all;
        node_page_init(&f->page, o, i, &all->stop);
        f->pause = FLOW_FEEDS_PERIOD;
    }
    pthread_mutex_init(&all->lock, NULL);
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&all->change, &monotonic);
    pthread_condattr_destroy(&monotonic);
    r = start(all);
    if (r < 0)
        flow_feeds_close(&all);
    else
        *ret = all;
    return r;
}

size_t flow_feeds_len(const struct flow_feeds *feeds)
{
    return feeds->len;
}

bool flow_feeds_take(struct flow_feeds *all, size_t i, struct flow_news *ret)
{
    struct feed *f = &all->each[i];
    bool full;

    pthread_mutex_lock(&all->lock);
    full = f->full;
    if (full)
        *ret = f->news;
    f->full = false;
    pthread_cond_broadcast(&all->change);
    pthread_mutex_unlock(&all->lock);
    return full;
}

void flow_feeds_finish(struct flow_feeds *all)
{
    pthread_mutex_lock(&all->lock);
    all->finish = true;
    pthread_cond_broadcast(&all->change);
    pthread_mutex_unlock(&all->lock);
}

bool flow_feeds_ended(struct flow_feeds *all)
{
    bool ended = true;

    pthread_mutex_lock(&all->lock);
    for (size_t i = 0; i < all->len; i++)
        ended = ended && all->each[i].ended && !all->each[i].full;
    pthread_mutex_unlock(&all->lock);
    return ended;
}

void flow_feeds_close(struct flow_feeds **feeds)
{
    struct flow_feeds *all = *feeds;

    if (!all)
        return;
    __atomic_store_n(&all->stop, true, __ATOMIC_RELAXED);
    if (all->options->fleet)
        fleet_stop(all->options->fleet);
    flow_feeds_finish(all);
    for (size_t i = 0; i < all->started; i++) {
        pthread_join(all->each[i].thread, NULL);
        cJSON_Delete(all->each[i].full ? all->each[i].news.answer : NULL);
    }
    pthread_cond_destroy(&all->change);
    pthread_mutex_destroy(&all->lock);
    free(all);
    *feeds = NULL;
}
