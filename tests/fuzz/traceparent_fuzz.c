/* SPDX-License-Identifier: Apache-2.0 */
/* What peers say of traces, and what a proxy hands over of them. */
#include <stdlib.h>
#include <string.h>

#include "proxy/telemetry/trace.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char text[TRACE_TEXT_LEN + 1], *input = malloc(size + 1);
    struct trace_parent parent;
    struct trace trace;

    if (!input)
        return 0;
    memcpy(input, data, size);
    if (trace_parent_read(input, size, &parent)) {
        trace = (struct trace){parent.high, parent.low, parent.span, 0};
        trace_parent_write(&trace, parent.sampled, text);
        if (!parent.span || memcmp(text + 3, input + 3, 49) != 0)
            abort();
    }
    input[size] = '\0';
    if (trace_read(input, &trace)) {
        trace_write(&trace, text);
        if (memcmp(text + 3, input + 3, 49) != 0 ||
            strcmp(text + TRACEPARENT_LEN, input + TRACEPARENT_LEN) != 0)
            abort();
    }
    free(input);
    return 0;
}
