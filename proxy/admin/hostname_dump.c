/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/admin/hostname_dump.h"

#include "lib/reasons.h"
#include "proxy/resolve/resolver.h"

cJSON *hostname_dump(struct resolver *resolver, const char *hostname, uint64_t now)
{
    cJSON *o = cJSON_CreateObject(), *addresses;
    struct name_answer answer;
    uint64_t left;

    if (!resolver_peek(resolver, hostname, now, &answer, &left)) {
        cJSON_AddBoolToObject(o, "known", false);
        return o;
    }
    cJSON_AddBoolToObject(o, "known", true);
    cJSON_AddNumberToObject(o, "milliseconds", (double)left);
    addresses = cJSON_AddArrayToObject(o, "addresses");
    for (uint32_t i = 0; i < answer.len; i++) {
        char text[ADDR_TEXT_LEN];

        cJSON_AddItemToArray(addresses, cJSON_CreateString(addr_format(&answer.addresses[i], text)));
    }
    if (answer.reason != BRUMA_REASON_NONE) {
        cJSON_AddStringToObject(o, "reason", reason_name(answer.reason));
        cJSON_AddStringToObject(o, "detail", answer.detail);
    }
    return o;
}
