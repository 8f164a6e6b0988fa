/* SPDX-License-Identifier: Apache-2.0 */
#include "ctl/dashboard/waypoints.h"

#include <criterion/criterion.h>
#include <stdlib.h>

/* One reached by the address of its service, one by its service's name, one by its own address, one by
 * weight. */
static const char dump[] =
    "{\"services\": ["
    "{\"namespace\": \"shop\", \"hostname\": \"cart\", \"vips\": [\"net/10.0.0.1\"],"
    " \"waypoint\": {\"destination\": \"net/10.0.0.9\", \"hboneMtlsPort\": 15008}},"
    "{\"namespace\": \"shop\", \"hostname\": \"gate\", \"vips\": [\"net/10.0.0.9\"]},"
    "{\"namespace\": \"shop\", \"hostname\": \"many\", \"vips\": [], \"weightedWaypoints\": ["
    "{\"destination\": {\"destination\": \"shop/heavy\"}, \"weight\": 3}]}],"
    "\"workloads\": ["
    "{\"name\": \"gate-1\", \"namespace\": \"shop\", \"workloadName\": \"gate\", \"services\": "
    "[\"shop/gate\"]},"
    "{\"name\": \"gate-2\", \"namespace\": \"shop\", \"workloadName\": \"gate\", \"services\": "
    "[\"shop/gate\"]},"
    "{\"name\": \"heavy-1\", \"namespace\": \"shop\", \"services\": [\"shop/heavy\"]},"
    "{\"name\": \"cart-1\", \"namespace\": \"shop\", \"network\": \"net\", \"workloadIps\": [\"10.1.0.1\"],"
    " \"services\": [\"shop/cart\"], \"waypoint\": {\"destination\": \"net/10.1.0.2\"}},"
    "{\"name\": \"own\", \"namespace\": \"shop\", \"network\": \"net\", \"workloadIps\": [\"10.1.0.2\"]},"
    "{\"name\": \"else\", \"namespace\": \"shop\", \"network\": \"other\", \"workloadIps\": "
    "[\"10.1.0.2\"]}]}";

static char *found(const char *text)
{
    cJSON *json = cJSON_Parse(text), *names = waypoints_of(json);
    char *printed = cJSON_PrintUnformatted(names);

    cJSON_Delete(names);
    cJSON_Delete(json);
    return printed;
}

Test(waypoints, of_all_kinds_each_once)
{
    char *names = found(dump);

    cr_assert_str_eq(names, "[\"shop/gate\",\"shop/heavy-1\",\"shop/own\"]");
    free(names);
}

Test(waypoints, of_dumps_that_are_none)
{
    static const char *const texts[] = {
        "{}", "[]", "null", "{\"services\": 3, \"workloads\": {\"a\": 1}}",
        "{\"services\": [null, {\"waypoint\": []}], \"workloads\": [[], {}]}"};

    for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
        char *names = found(texts[i]);

        cr_assert_str_eq(names, "[]", "%s", texts[i]);
        free(names);
    }
}
