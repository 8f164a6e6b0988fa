/* SPDX-License-Identifier: Apache-2.0 */
/* An istio.workload.Address from a control plane: applied, shown, routed to, replaced and removed. */
#include <stdlib.h>
#include <string.h>

#include "proxy/route/route.h"
#include "proxy/state/intern.h"
#include "proxy/state/state.h"
#include "tests/unit/proxy/state/state_text.h"

static void route_to_all(struct state *state, const cJSON *workloads)
{
    const cJSON *w;

    cJSON_ArrayForEach (w, workloads) {
        const cJSON *ip;
        uint64_t random = 1;

        cJSON_ArrayForEach (ip, cJSON_GetObjectItem(w, "workloadIps")) {
            struct endpoint destination = {.port = 80};
            const struct workload *self;
            struct route route;

            if (addr_parse(ip->valuestring, &destination.addr) < 0)
                abort();
            self = state_workload_by_address(state, &destination.addr);
            if (!self)
                continue;
            route_outbound(state, self, &destination, &random, NULL, &route);
            route_release(&route);
        }
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char error[128] = "";
    struct state *state;
    cJSON *dump = NULL;
    int r;

    if (state_new("", "", NULL, NULL, &state) < 0)
        abort();
    r = state_apply(state, STATE_ADDRESS, "name", data, size, error, sizeof(error));
    if ((r == 0) != (error[0] == '\0') ||
        (r == 0) != (state_workload_count(state) + state_service_count(state) == 1))
        abort();
    if (r == 0) {
        state_commit(state);
        dump = state_text(state);
        if (!dump)
            abort();
        route_to_all(state, cJSON_GetObjectItem(dump, "workloads"));
    }
    cJSON_Delete(dump);
    state_free(&state);
    if (intern_count())
        abort();
    return 0;
}
