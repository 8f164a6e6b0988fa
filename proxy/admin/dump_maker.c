/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/admin/dump_maker.h"

#include <pthread.h>
#include <stdlib.h>

#include "proxy/admin/config_dump.h"
#include "proxy/admin/pods_pages.h"
#include "proxy/connection/worker_post.h"
#include "proxy/flows/flows.h"
#include "proxy/proxy.h"
#include "proxy/worker/pod_notes.h"

/* Dumps that are read at once, each of its own moment: 8 bytes an object, and objects of which there are
 * newer versions. */
#define DUMPS_MAX 4

struct dump_maker {
    struct proxy *proxy;
    struct admin *admin;
    void *token;
    struct config_dump_source source;
    struct pod_notes *notes;
    struct config_dump *dump;
    unsigned next_worker;
    pthread_t thread;
    bool sorting;
};

static int open_dump(void *data, struct http_source *ret)
{
    return config_dump_open(data, ret);
}

static void finish(struct dump_maker *m)
{
    struct proxy *p = m->proxy;

    p->dump_maker = NULL;
    admin_dump_done(m->admin, m->token, m->dump ? open_dump : NULL, m->dump);
    config_dump_unref(&m->dump);
    pod_notes_free(&m->notes);
    free(m);
}

static void on_sorted(void *data)
{
    struct dump_maker *m = data;

    pthread_join(m->thread, NULL);
    finish(m);
}

static void *sort(void *data)
{
    struct dump_maker *m = data;

    config_dump_sort(m->dump);
    if (loop_post(m->proxy->loop, on_sorted, m) < 0)
        abort(); /* nobody would ever be answered again */
    return NULL;
}

static void take(struct dump_maker *m)
{
    struct proxy *p = m->proxy;

    pods_note(p, m->notes);
    if (config_dump_new(&m->source, m->notes, &m->dump) < 0)
        m->dump = NULL;
    m->notes = NULL;
    m->sorting = m->dump && pthread_create(&m->thread, NULL, sort, m) == 0;
    if (!m->sorting) {
        config_dump_unref(&m->dump);
        finish(m);
    }
}

static void on_noted(void *data)
{
    take(data);
}

static void next_worker(void *data)
{
    struct dump_maker *m = data;
    struct proxy *p = m->proxy;

    if (m->next_worker < p->workers_len)
        worker_note(p->workers[m->next_worker++], m->notes, next_worker, m);
    else if (!flows_note(p->flows, m->notes, on_noted, m))
        take(m);
}

void dump_make(struct proxy *p, const struct config_dump_source *source, struct admin *admin, void *token)
{
    struct dump_maker *m;

    if (config_dumps() >= DUMPS_MAX) {
        admin_dump_done(admin, token, open_dump, config_dump_newest());
        return;
    }
    m = calloc(1, sizeof(*m));
    if (!m || pod_notes_new(&m->notes) < 0) {
        free(m);
        admin_dump_done(admin, token, NULL, NULL);
        return;
    }
    m->proxy = p;
    m->admin = admin;
    m->token = token;
    m->source = *source;
    p->dump_maker = m;
    next_worker(m);
}

void dump_stop(struct proxy *p)
{
    struct dump_maker *m = p->dump_maker;

    if (!m)
        return;
    p->dump_maker = NULL;
    if (m->sorting)
        pthread_join(m->thread, NULL);
    config_dump_unref(&m->dump);
    pod_notes_free(&m->notes);
    free(m);
}
