/* SPDX-License-Identifier: Apache-2.0 */
#include "ctl/flow_line.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

static const char opened[] =
    "{\"time\":\"2026-01-02T03:04:05.123456Z\",\"message\":\"connection opened\",\"node\":\"n1\","
    "\"src.addr\":\"10.0.0.1:4444\",\"src.workload\":\"web\",\"src.namespace\":\"shop\",\"src.identity\":"
    "\"spiffe://w\","
    "\"dst.addr\":\"10.0.0.2:15008\",\"dst.hbone_addr\":\"10.0.0.2:80\",\"dst.workload\":\"cart\","
    "\"dst.namespace\":\"shop\",\"dst.service\":\"cart.shop\",\"direction\":\"outbound\"}";
static const char refused[] =
    "{\"time\":\"2026-01-02T03:04:05.123456Z\",\"message\":\"connection "
    "failed\",\"src.addr\":\"[fd00::1]:4\","
    "\"dst.addr\":\"[fd00::2]:80\",\"direction\":\"inbound\",\"error\":\"policy_denied: by \\u001b[2J\"}";
static const char complete[] =
    "{\"time\":\"x\",\"message\":\"connection "
    "complete\",\"src.addr\":\"10.0.0.1:4\",\"dst.addr\":\"10.0.0.2:80\","
    "\"direction\":\"inbound\",\"bytes_sent\":5,\"bytes_recv\":7,\"duration\":\"12ms\"}";

static char *printed(const char *json, bool as_json)
{
    cJSON *line = cJSON_Parse(json);
    char *text;
    size_t len;
    FILE *f = open_memstream(&text, &len);

    cr_assert_not_null(line);
    flow_line_print(line, as_json, f);
    fclose(f);
    cJSON_Delete(line);
    return text;
}

static bool wants(const char *json, struct flow_filter filter)
{
    cJSON *line = cJSON_Parse(json);
    bool has = flow_filter_has(&filter, line);

    cJSON_Delete(line);
    return has;
}

Test(flow_line, for_people)
{
    char *text = printed(opened, false);

    cr_expect_str_eq(text,
                     "03:04:05.123  n1  opened  outbound  shop/web 10.0.0.1:4444 -> shop/cart 10.0.0.2:80\n");
    free(text);
    text = printed(refused, false);
    cr_expect_str_eq(text,
                     "03:04:05.123  refused inbound   [fd00::1]:4 -> [fd00::2]:80  policy_denied: by ?[2J\n");
    free(text);
    text = printed(complete, false);
    cr_expect_str_eq(text, "x  closed  inbound   10.0.0.1:4 -> 10.0.0.2:80  sent 5, received 7 in 12ms\n");
    free(text);
    text = printed("{}", false);
    cr_expect_str_eq(text, "  closed             ->   sent 0, received 0 in \n");
    free(text);
}

Test(flow_line, for_programs)
{
    char *text = printed(opened, true);

    cr_expect(!strncmp(text, "{\"time\":", 8) && strchr(text, '\n') == text + strlen(text) - 1);
    free(text);
}

Test(flow_line, filters)
{
    static const char *const from[] = {"shop", "shop/web", "10.0.0.1", "10.0.0.1:4444", "spiffe://w"};
    static const char *const to[] = {"shop/cart", "10.0.0.2", "10.0.0.2:80", "cart.shop"};
    static const char *const others[] = {"web", "shop/we", "10.0.0.11", "10.0.0", "", "shop/cart/"};

    for (size_t i = 0; i < sizeof(from) / sizeof(*from); i++)
        cr_expect(wants(opened, (struct flow_filter){.from = from[i]}), "%s", from[i]);
    for (size_t i = 0; i < sizeof(to) / sizeof(*to); i++)
        cr_expect(wants(opened, (struct flow_filter){.to = to[i]}), "%s", to[i]);
    for (size_t i = 0; i < sizeof(others) / sizeof(*others); i++)
        cr_expect(!wants(opened, (struct flow_filter){.from = others[i]}), "%s", others[i]);
    cr_expect(!wants(opened, (struct flow_filter){.from = "shop/web", .to = "shop/web"}));
    cr_expect(wants(refused, (struct flow_filter){.from = "fd00::1", .refused = true}));
    cr_expect(!wants(opened, (struct flow_filter){.refused = true}));
    cr_expect(wants(refused, (struct flow_filter){.reason = "policy_denied"}));
    cr_expect(!wants(refused, (struct flow_filter){.reason = "policy"}));
    cr_expect(!wants(opened, (struct flow_filter){.reason = "policy_denied"}));
}
