/* SPDX-License-Identifier: Apache-2.0 */
#include "ctl/kube/upgrade_answer.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "ctl/kube/websocket.h"

/* The text behind NAME: of a line of len bytes, without blanks before it; *ret_len is its length. NULL:
 * another header. */
static const char *value_of(const char *line, size_t len, const char *name, size_t *ret_len)
{
    size_t n = strlen(name);

    if (len <= n || strncasecmp(line, name, n) != 0 || line[n] != ':')
        return NULL;
    for (n++; n < len && (line[n] == ' ' || line[n] == '\t'); n++)
        ;
    *ret_len = len - n;
    return line + n;
}

static void copy_value(const char *value, size_t len, char *buf, size_t size)
{
    snprintf(buf, size, "%.*s", (int)(len < size ? len : size - 1), value);
}

static int read_status(const char *line, size_t len, long *ret)
{
    char text[16];

    if (len < 12 || strncmp(line, "HTTP/1.", 7) != 0 || line[8] != ' ')
        return -EBADMSG;
    copy_value(line + 9, 3, text, sizeof(text));
    if (strspn(text, "0123456789") != 3)
        return -EBADMSG;
    *ret = strtol(text, NULL, 10);
    return 0;
}

/* *ret_body: bytes of the body, -1 if nothing says it. */
static int read_head(const char *head, size_t len, struct upgrade_answer *ret, long *ret_body)
{
    const char *line = head;

    *ret_body = -1;
    while (line < head + len) {
        const char *end = memchr(line, '\n', (size_t)(head + len - line));
        size_t line_len = (size_t)((end ? end : head + len) - line), value_len;
        const char *value;
        char text[32];

        if (line_len && line[line_len - 1] == '\r')
            line_len--;
        if (line == head && read_status(line, line_len, &ret->status) < 0)
            return -EBADMSG;
        if ((value = value_of(line, line_len, "Sec-WebSocket-Accept", &value_len)))
            copy_value(value, value_len, ret->accept, sizeof(ret->accept));
        if ((value = value_of(line, line_len, "Content-Length", &value_len))) {
            copy_value(value, value_len, text, sizeof(text));
            *ret_body = strtol(text, NULL, 10);
        }
        line = end ? end + 1 : head + len;
    }
    return 0;
}

int upgrade_answer_read(const unsigned char *bytes, size_t len, bool last, struct upgrade_answer *ret)
{
    const unsigned char *end = len ? memmem(bytes, len, "\r\n\r\n", 4) : NULL;
    long body;

    *ret = (struct upgrade_answer){};
    if (!end)
        return last ? -EBADMSG : 0;
    ret->len = (size_t)(end - bytes) + 4;
    if (read_head((const char *)bytes, ret->len, ret, &body) < 0)
        return -EBADMSG;
    if (ret->status == 101 || last)
        return 1;
    return body >= 0 && len - ret->len >= (size_t)body;
}

bool upgrade_answer_accepts(const struct upgrade_answer *answer, const char *key)
{
    char expected[WEBSOCKET_ACCEPT_LEN];

    websocket_accept(key, expected);
    return !strcmp(answer->accept, expected);
}
