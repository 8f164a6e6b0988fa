/* SPDX-License-Identifier: Apache-2.0 */
/* The answer to a request for WebSocket, which libcurl does not read: status, headers, and of a refusal the
 * body. */
#ifndef CTL_KUBE_UPGRADE_ANSWER_H
#define CTL_KUBE_UPGRADE_ANSWER_H

#include <stdbool.h>
#include <stddef.h>

struct upgrade_answer {
    long status;
    size_t len;      /* bytes of head: WebSocket, or the body, begins behind */
    char accept[64]; /* Sec-WebSocket-Accept */
};

/* 1: it is whole (of a refusal with its body, as far as its Content-Length or bytes go); 0: there must be
 * more bytes; -EBADMSG: it is none. last: no more will come. */
int upgrade_answer_read(const unsigned char *bytes, size_t len, bool last, struct upgrade_answer *ret);
/* Whether it is the answer to that key. */
bool upgrade_answer_accepts(const struct upgrade_answer *answer, const char *key);

#endif
