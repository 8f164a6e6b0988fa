/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/telemetry/trace.h"

#include <string.h>

#define ID_DIGITS 16
/* Where parts of a traceparent begin: version-trace-span-flags. */
enum { AT_HIGH = 3, AT_LOW = 19, AT_SPAN = 36, AT_FLAGS = 53 };

static char *put_id(char *at, uint64_t id)
{
    static const char digits[] = "0123456789abcdef";

    for (int shift = 60; shift >= 0; shift -= 4)
        *at++ = digits[id >> shift & 15];
    return at;
}

/* Lower case alone, as the header has it. */
static bool read_digits(const char *at, size_t len, uint64_t *ret)
{
    uint64_t n = 0;

    for (size_t i = 0; i < len; i++) {
        if (at[i] >= '0' && at[i] <= '9')
            n = n << 4 | (uint64_t)(at[i] - '0');
        else if (at[i] >= 'a' && at[i] <= 'f')
            n = n << 4 | (uint64_t)(at[i] - 'a' + 10);
        else
            return false;
    }
    *ret = n;
    return true;
}

bool trace_parent_read(const char *text, size_t len, struct trace_parent *ret)
{
    uint64_t version, high, low, span, flags;

    if (len < TRACEPARENT_LEN || text[2] != '-' || text[AT_SPAN - 1] != '-' || text[AT_FLAGS - 1] != '-' ||
        !read_digits(text, 2, &version) || !read_digits(text + AT_HIGH, ID_DIGITS, &high) ||
        !read_digits(text + AT_LOW, ID_DIGITS, &low) || !read_digits(text + AT_SPAN, ID_DIGITS, &span) ||
        !read_digits(text + AT_FLAGS, 2, &flags))
        return false;
    /* A later version may have more behind it. */
    if (version == 0xff || (len > TRACEPARENT_LEN && (!version || text[TRACEPARENT_LEN] != '-')))
        return false;
    if (!(high | low) || !span)
        return false;
    *ret = (struct trace_parent){high, low, span, flags & 1};
    return true;
}

void trace_parent_write(const struct trace *trace, bool sampled, char buf[TRACEPARENT_LEN + 1])
{
    char *at = buf;

    memcpy(at, "00-", 3);
    at = put_id(put_id(at + 3, trace->high), trace->low);
    *at++ = '-';
    at = put_id(at, trace->span);
    memcpy(at, sampled ? "-01" : "-00", 4);
}

void trace_write(const struct trace *trace, char buf[TRACE_TEXT_LEN + 1])
{
    trace_parent_write(trace, true, buf);
    buf[TRACEPARENT_LEN] = '-';
    *put_id(buf + TRACEPARENT_LEN + 1, trace->parent) = '\0';
}

bool trace_read(const char *text, struct trace *ret)
{
    struct trace_parent own;
    uint64_t parent;

    if (strlen(text) != TRACE_TEXT_LEN || text[TRACEPARENT_LEN] != '-' ||
        !trace_parent_read(text, TRACEPARENT_LEN, &own) ||
        !read_digits(text + TRACEPARENT_LEN + 1, ID_DIGITS, &parent))
        return false;
    *ret = (struct trace){own.high, own.low, own.span, parent};
    return true;
}

void trace_id_bytes(uint64_t id, uint8_t bytes[8])
{
    for (int i = 7; i >= 0; i--, id >>= 8)
        bytes[i] = (uint8_t)id;
}
