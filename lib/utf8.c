/* SPDX-License-Identifier: Apache-2.0 */
#include "lib/utf8.h"

/* RFC 3629: no overlong forms, no surrogates, nothing beyond U+10FFFF. */
size_t utf8_character(const char *string, size_t limit)
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
