/* SPDX-License-Identifier: Apache-2.0 */
/* An istio.security.Authorization from a control plane: applied, shown, asked. */
#include <stdlib.h>
#include <string.h>

#include "proxy/route/policy.h"
#include "proxy/state/intern.h"
#include "proxy/state/state.h"
#include "tests/unit/proxy/state/state_text.h"

/* A workload "w" of namespace "n" at 10.1.0.9. */
static const uint8_t workload[] = "\x0a\x10\x0a\x01w\x12\x01n\x1a\x04\x0a\x01\x00\x09\xa2\x01\x01u";

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char *const identities[] = {NULL, "spiffe://cluster.local/ns/shop/sa/web", "nonsense"};
    struct policy_request request = {.destination = {.port = 8080}};
    char error[128] = "";
    struct state *state;
    cJSON *dump;
    int r;

    if (state_new("", "", NULL, NULL, &state) < 0 ||
        state_apply(state, STATE_ADDRESS, "", workload, sizeof(workload) - 1, error, sizeof(error)) < 0)
        abort();
    r = state_apply(state, STATE_AUTHORIZATION, "name", data, size, error, sizeof(error));
    if ((r == 0) != (error[0] == '\0') || state_policy_count(state) != (r == 0))
        abort();
    state_commit(state);
    dump = state_text(state);
    if (!dump)
        abort();
    addr_parse("10.1.0.9", &request.destination.addr);
    addr_parse("fd00::1", &request.source.addr);
    for (size_t i = 0; i < sizeof(identities) / sizeof(identities[0]); i++) {
        struct policy_verdict verdict;

        request.identity = identities[i];
        policy_check(state, state_workload_by_address(state, &request.destination.addr), &request, &verdict);
        if (verdict.allowed != (verdict.text[0] == '\0'))
            abort();
    }
    cJSON_Delete(dump);
    state_free(&state);
    if (intern_count())
        abort();
    return 0;
}
