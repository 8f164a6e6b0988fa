/* SPDX-License-Identifier: Apache-2.0 */
#define LOG_SCOPE "worker"
#include "proxy/connection/worker_thread.h"

#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "lib/log.h"
#include "proxy/connection/pressure.h"
#include "proxy/connection/worker_pods.h"
#include "proxy/hbone/inner.h"
#include "proxy/hbone/tunnel.h"
#include "proxy/otlp/otlp.h"
#include "proxy/socket/route_device.h"
#include "proxy/state/rcu.h"

static void flush_tunnels(struct worker *w)
{
    struct list flush;

    list_init(&flush);
    list_splice(&flush, &w->flush);
    while (!list_empty(&flush))
        tunnel_flush(list_first(&flush, struct tunnel, flush_node));
}

static void turn_end(void *data)
{
    struct worker *w = data;
    struct turn_hook *hook;

    inner_turn(w);
    flush_tunnels(w);
    if (w->inside_len) /* what tunnels inside of others have said is in those by now */
        flush_tunnels(w);
    if (!list_empty(&w->memory_news) || w->memory_notified)
        pressure_look(w);
    list_for_each (hook, &w->turn_hooks, node)
        hook->fn(hook);
    if (!list_empty(&w->flush) || !list_empty(&w->inside))
        loop_again(w->loop);
    shared_buffer_check_free(&w->plain_in);
    shared_buffer_check_free(&w->plain_out);
    shared_buffer_check_free(&w->tls.received);
    shared_buffer_check_free(&w->tls.gathered);
}

static void fail(void *data)
{
    struct proxy *p = data;

    if (p->fail)
        p->fail(p);
}

/* Without this thread its share of every pod's connections would wait in listeners that nobody accepts from.
 */
static void *run(void *data)
{
    struct worker *w = data;
    char name[16];
    int r;

    snprintf(name, sizeof(name), "worker-%u", w->index);
    pthread_setname_np(pthread_self(), name);
    reader_register();
    r = loop_run(w->loop);
    if (r < 0) {
        log_error_errno(r, "worker %u cannot go on", w->index);
        if (loop_post(w->proxy->loop, fail, w->proxy) < 0)
            loop_stop(w->proxy->loop);
    }
    worker_pods_end(w);
    reader_unregister();
    return NULL;
}

void worker_free(struct worker *w)
{
    telemetry_free(&w->telemetry);
    route_device_close(&w->netlink);
    loop_free(&w->loop);
    tls_buffers_destroy(&w->tls);
    shared_buffer_destroy(&w->plain_in);
    shared_buffer_destroy(&w->plain_out);
    pipes_destroy(&w->pipes);
    free(w);
}

int worker_new(struct proxy *proxy, unsigned index, struct worker **ret)
{
    struct worker *w = calloc(1, sizeof(*w));
    int r;

    if (!w)
        return -ENOMEM;
    w->proxy = proxy;
    w->settings = &proxy->settings;
    w->state = proxy->state;
    w->index = index;
    list_init(&w->pods);
    list_init(&w->handshakes);
    list_init(&w->flush);
    list_init(&w->inside);
    list_init(&w->touched);
    list_init(&w->memory_news);
    list_init(&w->turn_hooks);
    pipes_init(&w->pipes, (unsigned)w->settings->relay_pipes);
    if (getrandom(&w->random, sizeof(w->random), 0) != sizeof(w->random) || !w->random)
        w->random = 0x9e3779b97f4a7c15u + index;
    r = shared_buffer_init(&w->plain_in, "plain_in", WORKER_BUFFER);
    if (r == 0)
        r = shared_buffer_init(&w->plain_out, "plain_out", WORKER_BUFFER);
    if (r == 0)
        r = tls_buffers_init(&w->tls, WORKER_BUFFER);
    w->tls.max_certificate_list = (unsigned)w->settings->max_certificate_list;
    w->tls.trust_domains = &w->settings->trust_domains;
    w->tls.key_updates = (unsigned)w->settings->key_updates;
    w->tls.resumption = &proxy->resumption;
    if (r == 0)
        r = loop_new(&w->loop);
    if (r == 0)
        r = telemetry_new(w->loop, STDOUT_FILENO, w->settings->log_json, &w->telemetry);
    if (r < 0) {
        worker_free(w);
        return r;
    }
    telemetry_limit_descriptions(w->telemetry, (unsigned)w->settings->peer_descriptions);
    telemetry_measure(w->telemetry, w->settings->connection_metrics);
    telemetry_export(w->telemetry, otlp_queue_of(w->proxy->otlp, OTLP_LOGS),
                     otlp_queue_of(w->proxy->otlp, OTLP_TRACES), otlp_sampler_of(w->proxy->otlp));
    reader_loop(&w->reader, w->loop, turn_end, w);
    *ret = w;
    return 0;
}

int worker_start(struct proxy *proxy, unsigned index, struct worker **ret)
{
    struct worker *w;
    int r = worker_new(proxy, index, &w);

    if (r < 0)
        return r;
    r = -pthread_create(&w->thread, NULL, run, w);
    if (r < 0) {
        worker_free(w);
        return r;
    }
    *ret = w;
    return 0;
}

void worker_stop(struct worker *w)
{
    loop_stop(w->loop);
    pthread_join(w->thread, NULL);
    worker_free(w);
}
