/* SPDX-License-Identifier: Apache-2.0 */
/* Lines of the access log, byte for byte, and what hostile names can do to them: nothing. */
#include <cjson/cJSON.h>
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "proxy/telemetry/access_log.h"
#include "proxy/telemetry/log_sink.h"
#include "tests/unit/proxy/telemetry/telemetry_samples.h"

#define AT                                         \
    {                                              \
        .tv_sec = 1767323045, .tv_nsec = 678901999 \
    } /* 2026-01-02T03:04:05.678901Z */

static char buf[LOG_SINK_LINE + 1];

static const char *format(bool json, const struct access_line *line)
{
    struct access_log log = {.json = json};
    size_t len = access_log_format(&log, line, buf, LOG_SINK_LINE);

    cr_assert(len <= LOG_SINK_LINE);
    cr_assert(buf[len - 1] == '\n');
    buf[len] = '\0';
    return buf;
}

static struct access_line complete(struct flow *flow)
{
    flow->received = 420;
    flow->sent = 9001;
    return (struct access_line){.level = LOG_LEVEL_INFO,
                                .event = ACCESS_COMPLETE,
                                .flow = flow,
                                .lived = 37 * UINT64_C(1000000),
                                .now = AT};
}

static void expect(const char *have, const char *want)
{
    cr_expect(!strcmp(have, want), "have %s\nwant %s", have, want);
}

#define SIDES                                                                                             \
    "src.addr=10.1.0.7:40122 src.workload=\"cart-6c9f-x2k\" src.namespace=\"shop\" "                      \
    "src.identity=\"spiffe://cluster.local/ns/shop/sa/cart\" src.cluster=\"Kubernetes\" "                 \
    "dst.addr=10.1.3.9:15008 "                                                                            \
    "dst.hbone_addr=10.1.3.9:6379 dst.service=\"redis.shop.svc.cluster.local\" dst.workload=\"redis-0\" " \
    "dst.namespace=\"shop\" dst.identity=\"spiffe://cluster.local/ns/shop/sa/redis\" "                    \
    "dst.cluster=\"Kubernetes\" "

Test(access_log, completion)
{
    struct flow flow = sample_flow();
    struct access_line line = complete(&flow);

    expect(format(false, &line), "2026-01-02T03:04:05.678901Z\tinfo\taccess\tconnection complete\t" SIDES
                                 "direction=\"outbound\" bytes_sent=420 bytes_recv=9001 duration=\"37ms\"\n");
}

Test(access_log, inbound_counts_from_the_other_side)
{
    struct flow flow = sample_flow();
    struct access_line line = complete(&flow);

    flow.reporter = REPORTER_DESTINATION;
    expect(format(false, &line), "2026-01-02T03:04:05.678901Z\tinfo\taccess\tconnection complete\t" SIDES
                                 "direction=\"inbound\" bytes_sent=9001 bytes_recv=420 duration=\"37ms\"\n");
}

Test(access_log, an_error_begins_with_the_reasons_name)
{
    struct flow flow = sample_flow();
    struct access_line line = complete(&flow);

    line.level = LOG_LEVEL_ERROR;
    line.reason = BRUMA_REASON_POLICY_CHANGED;
    line.detail = "policy \"shop/only-web\"";
    expect(format(false, &line), "2026-01-02T03:04:05.678901Z\terror\taccess\tconnection complete\t" SIDES
                                 "direction=\"outbound\" bytes_sent=420 bytes_recv=9001 duration=\"37ms\" "
                                 "error=\"policy_changed: policy \\\"shop/only-web\\\"\"\n");
    line.detail = NULL;
    cr_expect(
        strstr(format(false, &line),
               "error=\"policy_changed: a policy change ended a connection that had been allowed\"\n") !=
        NULL);
}

Test(access_log, opened_lacks_bytes_and_duration)
{
    struct flow flow = sample_flow();
    struct access_line line = {.level = LOG_LEVEL_DEBUG, .event = ACCESS_OPENED, .flow = &flow, .now = AT};

    expect(format(false, &line), "2026-01-02T03:04:05.678901Z\tdebug\taccess\tconnection opened\t" SIDES
                                 "direction=\"outbound\"\n");
}

Test(access_log, early_deny_has_four_keys)
{
    struct flow flow = sample_flow();
    struct access_line line = {.level = LOG_LEVEL_WARN,
                               .event = ACCESS_FAILED,
                               .flow = &flow,
                               .reason = BRUMA_REASON_SELF_CALL,
                               .now = AT};

    expect(format(false, &line),
           "2026-01-02T03:04:05.678901Z\twarn\taccess\tconnection failed\tsrc.addr=10.1.0.7:40122 "
           "dst.addr=10.1.3.9:15008 direction=\"outbound\" "
           "error=\"self_call: the destination is one of the proxy's own ports\"\n");
}

Test(access_log, plaintext_shows_no_identities_and_absent_values_are_left_out)
{
    struct flow flow = {
        .reporter = REPORTER_SOURCE, .source = &sample_cart, .source_identity = "spiffe://a/b"};
    struct access_line line = complete(&flow);

    cr_assert(endpoint_parse("[fd00::7]:40122", &flow.source_address) == 0);
    cr_assert(endpoint_parse("[2001:db8::1]:443", &flow.destination_address) == 0);
    expect(format(false, &line),
           "2026-01-02T03:04:05.678901Z\tinfo\taccess\tconnection complete\tsrc.addr=[fd00::7]:40122 "
           "src.workload=\"cart-6c9f-x2k\" src.namespace=\"shop\" src.cluster=\"Kubernetes\" "
           "dst.addr=[2001:db8::1]:443 direction=\"outbound\" bytes_sent=420 bytes_recv=9001 "
           "duration=\"37ms\"\n");
}

Test(access_log, a_source_behind_a_gateway_is_known_by_its_baggage)
{
    struct flow flow = sample_flow();
    struct access_line line = complete(&flow);

    flow.reporter = REPORTER_DESTINATION;
    flow.source = NULL;
    flow.baggage =
        "k8s.cluster.name=east,k8s.namespace.name=shop,k8s.deployment.name=d,service.name=cart-far";
    cr_expect(strstr(format(false, &line),
                     " src.addr=10.1.0.7:40122 src.workload=\"cart-far\" src.namespace=\"shop\" "
                     "src.identity=\"spiffe://cluster.local/ns/shop/sa/cart\" "
                     "src.cluster=\"east\" dst.addr=") == NULL);
    cr_expect(
        strstr(buf,
               "\tsrc.addr=10.1.0.7:40122 src.workload=\"cart-far\" src.namespace=\"shop\" "
               "src.identity=\"spiffe://cluster.local/ns/shop/sa/cart\" src.cluster=\"east\" dst.addr=") !=
            NULL,
        "%s", buf);
}

Test(access_log, json)
{
    struct flow flow = sample_flow();
    struct access_line line = complete(&flow);

    line.level = LOG_LEVEL_ERROR;
    line.reason = BRUMA_REASON_PEER_RESET;
    line.detail = "reset";
    expect(
        format(true, &line),
        "{\"level\":\"error\",\"time\":\"2026-01-02T03:04:05.678901Z\",\"scope\":\"access\","
        "\"message\":\"connection "
        "complete\",\"src.addr\":\"10.1.0.7:40122\",\"src.workload\":\"cart-6c9f-x2k\","
        "\"src.namespace\":\"shop\",\"src.identity\":\"spiffe://cluster.local/ns/shop/sa/cart\","
        "\"src.cluster\":\"Kubernetes\",\"dst.addr\":\"10.1.3.9:15008\",\"dst.hbone_addr\":\"10.1.3.9:6379\","
        "\"dst.service\":\"redis.shop.svc.cluster.local\",\"dst.workload\":\"redis-0\",\"dst.namespace\":"
        "\"shop\","
        "\"dst.identity\":\"spiffe://cluster.local/ns/shop/sa/redis\",\"dst.cluster\":\"Kubernetes\","
        "\"direction\":\"outbound\",\"bytes_sent\":420,\"bytes_recv\":9001,\"duration\":\"37ms\","
        "\"error\":\"peer_reset: reset\"}\n");
}

/* One line, whatever the names are; in JSON a valid object with every key. */
Test(access_log, hostile_names)
{
    static char huge[100000], odd[] = "a\"b\\c\nd\te\x01\x7f\xff\xc3\xa4\xed\xa0\x80\xf0\x9f\x98\x80 =";
    const char *const names[] = {huge, odd, "\xf0\x9f\x98", "\xc3"};
    struct flow flow = sample_flow();
    struct access_line line = complete(&flow);
    struct workload w = sample_cart;
    struct service s = sample_service;

    memset(huge, 0xfe, sizeof(huge) - 1);
    line.reason = BRUMA_REASON_INTERNAL;
    flow.source = flow.destination = &w;
    flow.service = &s;
    for (size_t i = 0; i < array_size(names); i++) {
        const char *end = NULL;
        cJSON *o;

        w.name = w.namespace = w.cluster_id = s.hostname = names[i];
        flow.source_identity = flow.destination_identity = flow.hbone_authority = line.detail = names[i];
        format(false, &line);
        cr_expect(strchr(buf, '\n') == buf + strlen(buf) - 1, "%s", buf);
        cr_expect(strstr(buf, " bytes_sent=420 bytes_recv=9001 duration=\"37ms\" error=\"internal: ") != NULL,
                  "%s", buf);
        cr_expect(!strncmp(buf + strlen(buf) - 2, "\"\n", 2));
        o = cJSON_ParseWithOpts(format(true, &line), &end, false);
        cr_assert(o != NULL, "%s", buf);
        cr_expect(!strcmp(end, "\n"));
        cr_expect(cJSON_GetArraySize(o) == 21, "%d keys", cJSON_GetArraySize(o));
        cJSON_Delete(o);
    }
}

Test(access_log, an_authority_that_is_none_is_quoted)
{
    struct flow flow = sample_flow();
    struct access_line line = complete(&flow);

    flow.hbone_authority = "10.0.0.1:80 direction=\"inbound\"";
    cr_expect(strstr(format(false, &line),
                     " dst.hbone_addr=\"10.0.0.1:80 direction=\\\"inbound\\\"\" dst.service=") != NULL,
              "%s", buf);
    flow.hbone_authority = "[fd00::1]:80";
    cr_expect(strstr(format(false, &line), " dst.hbone_addr=[fd00::1]:80 dst.service=") != NULL, "%s", buf);
}

Test(access_log, the_date_follows_the_clock)
{
    struct flow flow = sample_flow();
    struct access_line line = complete(&flow);
    struct access_log log = {};

    access_log_format(&log, &line, buf, LOG_SINK_LINE);
    line.now = (struct timespec){1767323046, 7000};
    access_log_format(&log, &line, buf, LOG_SINK_LINE);
    cr_expect(!strncmp(buf, "2026-01-02T03:04:06.000007Z\t", 28), "%.28s", buf);
}
