/* SPDX-License-Identifier: Apache-2.0 */
/* Baggage of peers, through everything that is made of it: label sets and log lines. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "proxy/telemetry/access_log.h"
#include "proxy/telemetry/baggage.h"
#include "proxy/telemetry/labels.h"
#include "proxy/telemetry/log_sink.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Well-formed UTF-8 without control characters; quotes only where they belong. */
static void check(const char *text, size_t len)
{
    for (size_t i = 0; i < len;) {
        size_t n = utf8_character(text + i, len - i);

        if (!n || (unsigned char)text[i] < 0x20)
            abort();
        i += n;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static char labels[LABELS_MAX], line_text[LOG_SINK_LINE];
    struct text text = {labels, 0, sizeof(labels)};
    struct access_log log = {.json = size % 2};
    struct baggage baggage;
    char *input = malloc(size + 1);
    struct flow flow = {.reporter = size % 3 ? REPORTER_DESTINATION : REPORTER_SOURCE,
                        .mutual_tls = true,
                        .baggage = input,
                        .hbone_authority = input,
                        .source_identity = input,
                        .destination_identity = input};
    struct access_line line = {.level = LOG_LEVEL_ERROR,
                               .event = ACCESS_COMPLETE,
                               .flow = &flow,
                               .reason = BRUMA_REASON_INTERNAL,
                               .detail = input};
    size_t flags_at, len;

    if (!input)
        return 0;
    memcpy(input, data, size);
    input[size] = '\0';
    baggage_parse(input, &baggage);
    for (int i = 0; i < BAGGAGE_KEYS; i++) {
        if (strlen(baggage.values[i]) >= BAGGAGE_VALUE_MAX || strpbrk(baggage.values[i], ",="))
            abort();
    }
    labels_format(&flow, &text, &flags_at);
    if (flags_at >= text.len || text.len >= LABELS_MAX || text.at[text.len - 1] != '"')
        abort();
    check(text.at, text.len);
    len = access_log_format(&log, &line, line_text, sizeof(line_text));
    if (len > sizeof(line_text) || line_text[len - 1] != '\n')
        abort();
    free(input);
    return 0;
}
