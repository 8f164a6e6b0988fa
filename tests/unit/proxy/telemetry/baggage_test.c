/* SPDX-License-Identifier: Apache-2.0 */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "proxy/telemetry/baggage.h"
#include "tests/unit/proxy/telemetry/telemetry_samples.h"

static struct baggage b;

static const char *parsed(const char *text, enum baggage_key key)
{
    baggage_parse(text, &b);
    return b.values[key];
}

Test(baggage, keeps_the_order_and_leaves_out_what_is_empty)
{
    char buf[512];
    size_t len = baggage_format(&sample_cart, buf, sizeof(buf));

    cr_expect(
        !strcmp(buf,
                "k8s.cluster.name=Kubernetes,k8s.namespace.name=shop,k8s.deployment.name=cart-deploy,"
                "service.name=cart,service.version=v2,cloud.region=north,cloud.availability_zone=north-1"),
        "%s", buf);
    cr_expect(len == strlen(buf));
    baggage_format(&sample_redis, buf, sizeof(buf));
    cr_expect(
        !strcmp(buf,
                "k8s.cluster.name=Kubernetes,k8s.namespace.name=shop,k8s.pod.name=redis,service.name=redis"),
        "%s", buf);
}

Test(baggage, types_of_workload)
{
    static const char *const keys[] = {
        "k8s.deployment.name=", "k8s.cronjob.name=", "k8s.pod.name=", "k8s.job.name="};
    struct workload w = sample_cart;
    char buf[512];

    for (int type = 0; type < 4; type++) {
        w.type = (enum workload_type)type;
        baggage_format(&w, buf, sizeof(buf));
        cr_expect(strstr(buf, keys[type]) != NULL, "%s", buf);
    }
}

Test(baggage, is_cut_at_a_member)
{
    char whole[512], buf[512];
    size_t len = baggage_format(&sample_cart, whole, sizeof(whole));

    for (size_t size = 0; size <= len + 1; size++) {
        memset(buf, 'x', sizeof(buf));
        size_t n = baggage_format(&sample_cart, buf, size);

        cr_assert(size == 0 || n < size);
        cr_assert(size == 0 || buf[n] == '\0');
        cr_assert(buf[size] == 'x', "wrote beyond %zu", size);
        if (n && n < len)
            cr_assert(n == 0 || buf[n - 1] != ',');
    }
}

Test(baggage, control_characters_and_separators_do_not_get_out)
{
    struct workload w = sample_redis;
    char buf[512];

    w.workload_name = "a\r\nx-injected: 1,service.name=b";
    baggage_format(&w, buf, sizeof(buf));
    cr_expect(strstr(buf, "k8s.pod.name=a__x-injected:_1_service.name_b,service.name=redis") != NULL, "%s",
              buf);
}

Test(baggage, parses_its_own)
{
    char buf[512];

    baggage_format(&sample_cart, buf, sizeof(buf));
    cr_expect(!strcmp(parsed(buf, BAGGAGE_CLUSTER), "Kubernetes"));
    cr_expect(!strcmp(b.values[BAGGAGE_NAMESPACE], "shop"));
    cr_expect(!strcmp(b.values[BAGGAGE_WORKLOAD], "cart-deploy"));
    cr_expect(!strcmp(b.values[BAGGAGE_SERVICE], "cart"));
    cr_expect(!strcmp(b.values[BAGGAGE_REVISION], "v2"));
    cr_expect(!strcmp(b.values[BAGGAGE_REGION], "north"));
    cr_expect(!strcmp(b.values[BAGGAGE_ZONE], "north-1"));
}

Test(baggage, odd_input)
{
    static char huge[70000];

    cr_expect(!*parsed("", BAGGAGE_SERVICE));
    cr_expect(!*parsed(",,,==,=,service.name", BAGGAGE_SERVICE));
    cr_expect(!*parsed("service.name=", BAGGAGE_SERVICE));
    cr_expect(!*parsed("Service.Name=x, service.name=y", BAGGAGE_SERVICE), "keys are exact");
    cr_expect(!strcmp(parsed("k=v,service.name=a=b,other", BAGGAGE_SERVICE), "a"));
    cr_expect(!strcmp(parsed("service.name=a,service.name=b", BAGGAGE_SERVICE), "b"));
    memset(huge, 'a', sizeof(huge) - 1);
    memcpy(huge, "service.name=", 13);
    cr_expect(strlen(parsed(huge, BAGGAGE_SERVICE)) == BAGGAGE_VALUE_MAX - 1);
}
