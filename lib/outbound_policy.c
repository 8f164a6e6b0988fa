/* SPDX-License-Identifier: Apache-2.0 */
#include "lib/outbound_policy.h"

#include <errno.h>
#include <string.h>

#include "lib/cleanup.h"

static const struct {
    const char *name, *number; /* the latter as protobuf's JSON may have it */
    enum outbound_policy policy;
} modes[] = {{"REGISTRY_ONLY", "0", OUTBOUND_REGISTRY_ONLY},
             {"ALLOW_ANY", "1", OUTBOUND_ALLOW_ANY},
             /* how Envoy finds the destination; what is allowed is the same */
             {"ALLOW_ANY_DYNAMIC_DNS", "3", OUTBOUND_ALLOW_ANY}};

int outbound_policy_parse(const char *text, enum outbound_policy *ret)
{
    for (size_t i = 0; i < array_size(modes); i++) {
        if (!strcmp(text, modes[i].name) || !strcmp(text, modes[i].number)) {
            *ret = modes[i].policy;
            return 0;
        }
    }
    return -EINVAL;
}

const char *outbound_policy_name(enum outbound_policy policy)
{
    for (size_t i = 0; i < array_size(modes); i++) {
        if (modes[i].policy == policy)
            return modes[i].name;
    }
    return "";
}
