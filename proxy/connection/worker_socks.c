/* SPDX-License-Identifier: Apache-2.0 */
#define LOG_SCOPE "worker"
#include "proxy/connection/worker_socks.h"

#include <stdlib.h>
#include <unistd.h>

#include "lib/cleanup.h"
#include "lib/log.h"
#include "proxy/connection/acceptor.h"
#include "proxy/connection/socks.h"

struct socks_listeners {
    struct worker *worker;
    struct pod *pod; /* referenced */
    int fds[2];
};

void worker_socks_init(struct worker_pod *wp)
{
    for (size_t i = 0; i < array_size(wp->socks_acceptors); i++)
        acceptor_init(&wp->socks_acceptors[i], wp, ACCEPT_SOCKS);
}

void worker_socks_start(struct worker_pod *wp)
{
    const struct worker *w = wp->worker;

    for (size_t i = 0; i < array_size(wp->socks_acceptors); i++) {
        if (w->serving && !w->draining && !wp->draining)
            acceptor_start(&wp->socks_acceptors[i]);
    }
}

void worker_socks_stop(struct worker_pod *wp)
{
    for (size_t i = 0; i < array_size(wp->socks_acceptors); i++)
        acceptor_stop(&wp->socks_acceptors[i]);
}

void worker_socks_drain(struct worker_pod *wp)
{
    for (size_t i = 0; i < array_size(wp->socks_acceptors); i++)
        acceptor_finish(&wp->socks_acceptors[i]);
}

void worker_socks_close(struct worker_pod *wp)
{
    for (size_t i = 0; i < array_size(wp->socks_acceptors); i++)
        acceptor_close(&wp->socks_acceptors[i]);
    socks_end_all(wp);
}

static void do_set(void *data)
{
    struct socks_listeners *s = data;
    struct worker_pod *wp;

    list_for_each (wp, &s->worker->pods, node) {
        for (size_t i = 0; wp->pod == s->pod && i < array_size(s->fds); i++) {
            if (s->fds[i] >= 0)
                acceptor_set(&wp->socks_acceptors[i], take_fd(&s->fds[i]));
        }
        worker_socks_start(wp);
    }
    for (size_t i = 0; i < array_size(s->fds); i++) {
        if (s->fds[i] >= 0)
            close(s->fds[i]);
    }
    pod_unref(s->pod);
    free(s);
}

void worker_set_socks(struct worker *w, struct pod *pod, const int listeners[2])
{
    struct socks_listeners *s = malloc(sizeof(*s));

    if (s) {
        *s = (struct socks_listeners){w, pod, {listeners[0], listeners[1]}};
        pod_ref(pod);
        if (loop_post(w->loop, do_set, s) == 0)
            return;
    }
    /* Without memory for a message the worker's view of the pods would be wrong from here on. */
    log_error("out of memory: a message to worker %u is lost", w->index);
    abort();
}
