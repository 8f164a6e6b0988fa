/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/worker/handshakes.h"

void handshake_init(struct handshake *h, void (*evict)(struct handshake *))
{
    list_init(&h->node);
    list_init(&h->pod_node);
    h->evict = evict;
}

/* Workers count for themselves, so each has its share. */
static unsigned share(const struct worker *w, unsigned long all)
{
    unsigned long workers = w->proxy->workers_len ? w->proxy->workers_len : 1;

    return (unsigned)((all + workers - 1) / workers);
}

void handshake_begin(struct worker_pod *wp, struct handshake *h)
{
    const struct proxy_settings *s = wp->worker->settings;
    struct worker *w = wp->worker;
    struct handshake *oldest;

    list_add_tail(&w->handshakes, &h->node);
    list_add_tail(&wp->handshakes, &h->pod_node);
    w->handshakes_len++;
    wp->handshakes_len++;
    if (wp->handshakes_len > share(w, s->max_pod_handshakes)) {
        oldest = list_first(&wp->handshakes, struct handshake, pod_node);
        oldest->evict(oldest);
    } else if (w->handshakes_len > share(w, s->max_handshakes)) {
        oldest = list_first(&w->handshakes, struct handshake, node);
        oldest->evict(oldest);
    }
}

void handshake_end(struct worker_pod *wp, struct handshake *h)
{
    if (list_empty(&h->node))
        return;
    list_del(&h->node);
    list_del(&h->pod_node);
    wp->worker->handshakes_len--;
    wp->handshakes_len--;
}
