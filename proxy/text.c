/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/text.h"

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

/* RFC 3629: no overlong forms, no surrogates, nothing beyond U+10FFFF. */
size_t text_character(const char *string, size_t limit)
{
    const unsigned char *s = (const unsigned char *)string;
    size_t len = s[0] < 0x80 ? 1 : s[0] < 0xc2 ? 0 : s[0] < 0xe0 ? 2 : s[0] < 0xf0 ? 3 : s[0] < 0xf5 ? 4 : 0;

    if (len > limit)
        return 0;
    for (size_t i = 1; i < len; i++) {
        if ((s[i] & 0xc0) != 0x80)
            return 0;
    }
    if ((s[0] == 0xe0 && s[1] < 0xa0) || (s[0] == 0xed && s[1] > 0x9f) || (s[0] == 0xf0 && s[1] < 0x90) ||
        (s[0] == 0xf4 && s[1] > 0x8f))
        return 0;
    return len;
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
            n = (unsigned char)string[at] < 0x80 ? 0 : text_character(string + at, limit - at);
            if (n)
                text_put(t, string + at, n);
            else
                text_literal(t, REPLACEMENT);
            at += n ? n : 1;
        }
    }
}

void text_quoted(struct text *t, const char *string, size_t limit)
{
    text_literal(t, "\"");
    text_escaped(t, string, limit);
    text_literal(t, "\"");
}
