/* SPDX-License-Identifier: Apache-2.0 */
/* What the state would tell in a config dump, read to the end at once. */
#ifndef TESTS_UNIT_PROXY_STATE_STATE_TEXT_H
#define TESTS_UNIT_PROXY_STATE_STATE_TEXT_H

#include <stdlib.h>

#include "proxy/admin/state_dump.h"

/* The object, which the caller deletes; NULL if it could not be made or is not JSON. */
static inline cJSON *state_text(struct state *state)
{
    struct state_snapshot *snapshot = NULL;
    struct state_reader *reader = NULL;
    char *text = NULL;
    size_t len;
    FILE *out = open_memstream(&text, &len);
    cJSON *o = NULL;
    int more = -1;

    fputc('{', out);
    if (state_snapshot_take(state, &snapshot) == 0) {
        state_snapshot_sort(snapshot);
        more = state_reader_new(snapshot, &reader);
        while (reader && (more = state_reader_next(reader, out)) > 0)
            ;
    }
    fputc('}', out);
    fclose(out);
    if (more == 0)
        o = cJSON_Parse(text);
    state_reader_free(&reader);
    state_snapshot_free(&snapshot);
    free(text);
    return o;
}

#endif
