/* SPDX-License-Identifier: Apache-2.0 */
/* Contract section 8.1: istio_on_demand_dns. */
#include "proxy/telemetry/name_metrics.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

#include "proxy/telemetry/telemetry_internal.h"

static struct telemetry workers[2];

static void setup(void)
{
    for (int i = 0; i < 2; i++)
        cr_assert_eq(name_metrics_new(&workers[i].names), 0);
}

static void teardown(void)
{
    for (int i = 0; i < 2; i++)
        name_metrics_free(&workers[i].names);
}

TestSuite(name_metrics, .init = setup, .fini = teardown);

/* The page without the family's two lines; the caller frees it. */
static char *page(void)
{
    struct name_metrics *all[] = {workers[0].names, workers[1].names};
    char *text = NULL;
    size_t len;
    FILE *out = open_memstream(&text, &len);

    name_metrics_write(all, 2, out);
    fclose(out);
    return text;
}

static const struct workload web = {
    .workload_name = "web",
    .canonical_name = "web-app",
    .canonical_revision = "v1",
    .namespace = "shop",
    .identity = "spiffe://td/ns/shop/sa/web",
    .cluster_id = "c1",
};

#define WEB                                                                                              \
    "istio_on_demand_dns_total{source_workload=\"web\",source_canonical_service=\"web-app\",source_"     \
    "canonical_revision=\"v1\",source_workload_namespace=\"shop\",source_principal=\"spiffe://td/ns/"    \
    "shop/sa/web\",source_app=\"web-app\",source_version=\"v1\",source_cluster=\"c1\",hostname=\"%s\"} " \
    "%d\n"

static void expect(const char *text, const char *hostname, int count)
{
    char line[1024];

    snprintf(line, sizeof(line), WEB, hostname, count);
    cr_expect(strstr(text, line) != NULL, "%s is not in\n%s", line, text);
}

Test(name_metrics, nothing_is_written_without_a_sample)
{
    char *text = page();

    cr_expect_str_eq(text, "");
    free(text);
}

Test(name_metrics, workers_are_added_up)
{
    char *text;

    telemetry_name_lookup(&workers[0], &web, "a.test");
    telemetry_name_lookup(&workers[1], &web, "a.test");
    telemetry_name_lookup(&workers[1], &web, "a.test");
    telemetry_name_lookup(&workers[1], &web, "b\"\\.test");
    text = page();
    cr_expect_eq(strncmp(text, "# HELP istio_on_demand_dns ", 27), 0, "%s", text);
    expect(text, "a.test", 3);
    expect(text, "b\\\"\\\\.test", 1);
    free(text);
}

Test(name_metrics, series_are_bounded)
{
    int lines = 0;
    char *text;

    for (int i = 0; i < 3000; i++) {
        char name[32];

        snprintf(name, sizeof(name), "n%d.test", i);
        telemetry_name_lookup(&workers[0], &web, name);
    }
    text = page();
    expect(text, "n0.test", 1);
    expect(text, "n2047.test", 1);
    cr_expect_null(strstr(text, "n2048.test"));
    cr_expect_not_null(strstr(text, "hostname=\"unknown\"} 952\n"));
    for (const char *p = text; (p = strchr(p, '\n')); p++)
        lines++;
    cr_expect(lines == 2048 + 1 + 2, "%d", lines);
    free(text);
}
