/* SPDX-License-Identifier: Apache-2.0 */
#include "ctl/safe_text.h"

#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "lib/cleanup.h"
#include "lib/utf8.h"

/* Code point of a well-formed character of so many bytes. */
static uint32_t code_point(const char *text, size_t len)
{
    uint32_t code = len == 1 ? (unsigned char)*text : (unsigned char)*text & (0x7fu >> len);

    for (size_t i = 1; i < len; i++)
        code = code << 6 | ((unsigned char)text[i] & 0x3f);
    return code;
}

static bool drives(uint32_t c)
{
    return c < 0x20 || (c >= 0x7f && c < 0xa0) || c == 0x061c || c == 0x200e || c == 0x200f ||
           (c >= 0x2028 && c <= 0x202e) || (c >= 0x2066 && c <= 0x2069);
}

void text_clean(char *text)
{
    size_t rest = strlen(text), n;
    char *to = text;

    for (const char *from = text; rest; from += n, rest -= n) {
        size_t len = utf8_character(from, rest);

        n = len ? len : 1;
        if (!len || drives(code_point(from, len))) {
            *to++ = '?';
            continue;
        }
        memmove(to, from, n);
        to += n;
    }
    *to = '\0';
}

/* cJSON_ParseWithLength() bounds the depth (CJSON_NESTING_LIMIT). */
void json_clean(cJSON *json) // NOLINT(misc-no-recursion)
{
    cJSON *child;

    if (!json)
        return;
    if (json->string)
        text_clean(json->string);
    if (json->valuestring)
        text_clean(json->valuestring);
    cJSON_ArrayForEach (child, json)
        json_clean(child);
}

/* In JSON such a character can only stand in a text. Newlines are the form's own. */
static void put_escaped(const char *text, FILE *out)
{
    size_t rest = strlen(text), n;

    for (; rest; text += n, rest -= n) {
        size_t len = utf8_character(text, rest);
        uint32_t c = len ? code_point(text, len) : 0xfffd;

        n = len ? len : 1;
        if (!len || (c != '\n' && c != '\t' && drives(c)))
            fprintf(out, "\\u%04x", c);
        else
            fwrite(text, 1, n, out);
    }
}

char *json_to_text(const cJSON *json, bool on_one_line)
{
    _cleanup_free_ char *text = on_one_line ? cJSON_PrintUnformatted(json) : cJSON_Print(json);
    char *escaped = NULL;
    size_t len;
    FILE *out = text ? open_memstream(&escaped, &len) : NULL;

    if (!out)
        return NULL;
    put_escaped(text, out);
    if (fclose(out) == 0)
        return escaped;
    free(escaped);
    return NULL;
}
