/* SPDX-License-Identifier: Apache-2.0 */
#define LOG_SCOPE "worker"
#include "proxy/connection/worker_dns.h"

#include <stdlib.h>

#include "lib/log.h"
#include "proxy/connection/acceptor.h"
#include "proxy/dns/dns.h"

struct sockets {
    struct worker *worker;
    struct pod *pod; /* referenced */
    int udp, tcp;
};

void worker_dns_start(struct worker_pod *wp)
{
    struct worker *w = wp->worker;

    if (!w->serving || w->draining || wp->draining || !wp->dns)
        return;
    dns_pod_start(wp->dns);
    acceptor_start(&wp->dns_acceptor);
}

void worker_dns_stop(struct worker_pod *wp)
{
    if (!wp->dns)
        return;
    dns_pod_stop(wp->dns);
    acceptor_stop(&wp->dns_acceptor);
}

void worker_dns_drain(struct worker_pod *wp)
{
    worker_dns_stop(wp);
    if (!wp->dns || !wp->pod->redirected)
        return;
    acceptor_finish(&wp->dns_acceptor);
    dns_pod_set_socket(wp->dns, -1);
}

void worker_dns_free(struct worker_pod *wp)
{
    if (!wp->dns)
        return;
    acceptor_close(&wp->dns_acceptor);
    dns_pod_free(&wp->dns);
}

static void set(struct worker_pod *wp, struct sockets *s)
{
    if (!wp->dns) {
        if (s->udp < 0)
            return;
        if (dns_pod_new(wp, &wp->dns) < 0) {
            log_error("out of memory: questions of a pod are not answered\tpod=\"%s/%s\"", wp->pod->namespace,
                      wp->pod->name);
            return;
        }
        acceptor_init(&wp->dns_acceptor, wp, ACCEPT_DNS);
    }
    dns_pod_set_socket(wp->dns, take_fd(&s->udp));
    acceptor_set(&wp->dns_acceptor, take_fd(&s->tcp));
    worker_dns_start(wp);
}

static void do_set(void *data)
{
    struct sockets *s = data;
    struct worker_pod *wp;

    list_for_each (wp, &s->worker->pods, node) {
        if (wp->pod == s->pod) {
            set(wp, s);
            break;
        }
    }
    if (s->udp >= 0)
        close(s->udp);
    if (s->tcp >= 0)
        close(s->tcp);
    pod_unref(s->pod);
    free(s);
}

void worker_set_dns(struct worker *w, struct pod *pod, int udp, int tcp)
{
    struct sockets *s = malloc(sizeof(*s));

    if (s) {
        *s = (struct sockets){.worker = w, .pod = pod, .udp = udp, .tcp = tcp};
        pod_ref(pod);
        if (loop_post(w->loop, do_set, s) == 0)
            return;
    }
    /* Without memory for a message the worker's view of the pods would be wrong from here on. */
    log_error("out of memory: a message to worker %u is lost", w->index);
    abort();
}
