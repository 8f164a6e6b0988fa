/* SPDX-License-Identifier: Apache-2.0 */
#include "lib/outbox.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "lib/seqpacket.h"

struct queued {
    struct list node;
    char *text;
    size_t len;
    size_t fds_len;
    int fds[];
};

void outbox_init(struct outbox *outbox)
{
    list_init(&outbox->queue);
    outbox->len = 0;
    outbox->wipes = false;
}

void outbox_move(struct outbox *to, struct outbox *from)
{
    outbox_init(to);
    to->wipes = from->wipes;
    to->len = from->len;
    list_splice(&to->queue, &from->queue);
    from->len = 0;
}

static void text_free(const struct outbox *outbox, char *text, size_t len)
{
    if (outbox->wipes)
        explicit_bzero(text, len);
    free(text);
}

static void queued_free(const struct outbox *outbox, struct queued *q)
{
    list_del(&q->node);
    close_fds(q->fds, q->fds_len);
    if (q->text)
        text_free(outbox, q->text, q->len);
    free(q);
}

void outbox_clear(struct outbox *outbox)
{
    struct queued *q;

    list_for_each (q, &outbox->queue, node)
        queued_free(outbox, q);
    outbox->len = 0;
}

/* Takes text only if it succeeds. */
static int keep(struct outbox *outbox, char *text, size_t len, const int *fds, size_t fds_len)
{
    struct queued *q;

    if (outbox->len >= OUTBOX_MAX)
        return -ENOBUFS;
    if (fds_len > SEQPACKET_FDS_MAX)
        return -EINVAL;
    q = calloc(1, sizeof(*q) + fds_len * sizeof(int));
    if (!q)
        return -ENOMEM;
    list_init(&q->node);
    for (size_t i = 0; i < fds_len; i++) {
        q->fds[i] = fcntl(fds[i], F_DUPFD_CLOEXEC, 0);
        if (q->fds[i] < 0) {
            int r = -errno;

            queued_free(outbox, q);
            return r;
        }
        q->fds_len++;
    }
    q->text = text;
    q->len = len;
    list_add_tail(&outbox->queue, &q->node);
    outbox->len++;
    return 0;
}

int outbox_send(struct outbox *outbox, int socket, char *text, size_t len, const int *fds, size_t fds_len)
{
    int r = outbox->len ? -EAGAIN : seqpacket_send(socket, text, len, fds, fds_len);

    if (r == -EAGAIN) {
        r = keep(outbox, text, len, fds, fds_len);
        if (r == 0)
            return 1;
    }
    text_free(outbox, text, len);
    return r;
}

int outbox_flush(struct outbox *outbox, int socket)
{
    while (outbox->len) {
        struct queued *q = list_first(&outbox->queue, struct queued, node);
        int r = seqpacket_send(socket, q->text, q->len, q->fds, q->fds_len);

        if (r < 0)
            return r;
        queued_free(outbox, q);
        outbox->len--;
    }
    return 0;
}
