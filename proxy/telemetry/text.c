/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/telemetry/text.h"

#define REPLACEMENT "\xef\xbf\xbd" /* U+FFFD */

void text_number(struct text *t, uint64_t number)
{
    char digits[20];
    size_t at = sizeof(digits);

    do {
        digits[--at] = (char)('0' + number % 10);
        number /= 10;
    } while (number);
    text_put(t, digits + at, sizeof(digits) - at);
}

void text_endpoint(struct text *t, const struct endpoint *endpoint)
{
    char buf[ADDR_TEXT_LEN];

    if (addr_is_v4(&endpoint->addr)) {
        for (int i = 12; i < 16; i++) {
            if (i > 12)
                text_literal(t, ".");
            text_number(t, endpoint->addr.bytes[i]);
        }
    } else {
        text_literal(t, "[");
        text_string(t, addr_format(&endpoint->addr, buf));
        text_literal(t, "]");
    }
    text_literal(t, ":");
    text_number(t, endpoint->port);
}

/* Stands for itself in both forms. */
static inline bool is_plain(unsigned char c)
{
    return c >= 0x20 && c < 0x7f && c != '"' && c != '\\';
}

void text_escaped(struct text *t, const char *string, size_t limit)
{
    size_t at = 0, begin, n;

    while (at < limit && string[at]) {
        begin = at;
        while (at < limit && is_plain((unsigned char)string[at]))
            at++;
        text_put(t, string + begin, at - begin);
        if (at == limit || !string[at])
            break;
        if (string[at] == '"' || string[at] == '\\') {
            text_literal(t, "\\");
            text_put(t, string + at, 1);
            at++;
        } else if (string[at] == '\n') {
            text_literal(t, "\\n");
            at++;
        } else {
            n = (unsigned char)string[at] < 0x80 ? 0 : utf8_character(string + at, limit - at);
            if (n)
                text_put(t, string + at, n);
            else
                text_literal(t, REPLACEMENT);
            at += n ? n : 1;
        }
    }
}

void text_utf8(struct text *t, const char *string, size_t limit)
{
    for (size_t at = 0, n; at < limit && string[at]; at += n ? n : 1) {
        n = (unsigned char)string[at] >= 0x20 ? utf8_character(string + at, limit - at) : 0;
        if (n)
            text_put(t, string + at, n);
        else
            text_literal(t, REPLACEMENT);
    }
}

void text_quoted(struct text *t, const char *string, size_t limit)
{
    text_literal(t, "\"");
    text_escaped(t, string, limit);
    text_literal(t, "\"");
}
