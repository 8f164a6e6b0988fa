/* SPDX-License-Identifier: Apache-2.0 */
/* What a proxy is given as LOCAL_XDS: an error that names it, or a state that can be shown. */
#include <stdlib.h>
#include <string.h>

#include "proxy/state/intern.h"
#include "proxy/state/state.h"
#include "proxy/xds/local_xds.h"
#include "tests/unit/proxy/state/state_text.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char error[1200] = "", *text = malloc(size + 1);
    struct state *state;
    cJSON *dump;

    if (!text || state_new("", "", NULL, NULL, &state) < 0)
        abort();
    memcpy(text, data, size);
    text[size] = '\0'; /* a variable ends at its first NUL */
    if (local_xds_load(state, &(struct local_xds){"", text, "cluster.local"}, error, sizeof(error)) < 0) {
        if (strncmp(error, "LOCAL_XDS:", 10) != 0)
            abort();
    } else {
        dump = state_text(state);
        if (!dump)
            abort();
        cJSON_Delete(dump);
    }
    state_free(&state);
    free(text);
    if (intern_count())
        abort();
    return 0;
}
