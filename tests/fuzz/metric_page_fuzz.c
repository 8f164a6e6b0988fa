/* SPDX-License-Identifier: Apache-2.0 */
/* What a proxy of another node sends as its metrics, as `brumactl top` takes it. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "ctl/metric_page.h"
#include "ctl/top_rows.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *text = malloc(size + 1), value[METRIC_VALUE_MAX];
    struct metric_page page, none = {};

    if (!text)
        return 0;
    memcpy(text, data, size);
    text[size] = '\0';
    if (metric_page_parse(text, &page) < 0)
        return 0;
    for (size_t i = 0; i < page.len; i++) {
        if (!metric_page_find(&page, &page.samples[i]))
            abort();
        if (strlen(metric_label(&page.samples[i], "a", value)) >= sizeof(value))
            abort();
    }
    for (unsigned by = 0; by < TOP_BYS; by++) {
        struct top_rows *rows = top_rows_new((enum top_by)by, NULL);
        size_t len;

        if (rows && top_rows_add(rows, 0, &none, &page, 1) == 0)
            (void)top_rows_sorted(rows, TOP_BYTES, &len);
        top_rows_free(&rows);
    }
    metric_page_free(&page);
    return 0;
}
