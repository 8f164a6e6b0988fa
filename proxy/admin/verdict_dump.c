/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/admin/verdict_dump.h"

#include "proxy/route/policy.h"

cJSON *verdict_dump(const struct state *state, const char *identity, const struct endpoint *from,
                    const struct endpoint *to)
{
    const struct workload *destination = state_workload_by_address(state, &to->addr);
    const struct policy_request request = {
        .source = *from, .destination = *to, .identity = *identity ? identity : NULL};
    struct policy_verdict v;
    cJSON *o;

    if (!destination)
        return NULL;
    policy_check(state, destination, &request, &v);
    o = cJSON_CreateObject();
    cJSON_AddBoolToObject(o, "allowed", v.allowed);
    cJSON_AddStringToObject(o, "policy", v.policy);
    cJSON_AddStringToObject(o, "text", v.text);
    cJSON_AddStringToObject(o, "dryRun", policy_dry_run_name(v.dry_run));
    cJSON_AddStringToObject(o, "dryRunPolicy", v.dry_run_policy);
    cJSON_AddStringToObject(o, "dryRunText", policy_dry_run_text(v.dry_run));
    return o;
}
