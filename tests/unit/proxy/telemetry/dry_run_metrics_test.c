/* SPDX-License-Identifier: Apache-2.0 */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "proxy/telemetry/dry_run_metrics.h"

static struct dry_run_metrics a, b;

/* The page over both workers. The caller frees it. */
static char *page(void)
{
    struct dry_run_metrics *const all[] = {&a, &b};
    char *text = NULL;
    size_t len = 0;
    FILE *out = open_memstream(&text, &len);

    dry_run_metrics_write(all, 2, out);
    cr_assert(fclose(out) == 0);
    return text;
}

static void teardown(void)
{
    dry_run_metrics_clear(&a);
    dry_run_metrics_clear(&b);
}

TestSuite(dry_run_metrics, .fini = teardown);

static unsigned lines(const char *text, const char *with)
{
    unsigned n = 0;

    while ((text = strstr(text, with))) {
        text += strlen(with);
        n++;
    }
    return n;
}

Test(dry_run_metrics, sums_over_workers)
{
    char *text = page();

    cr_expect_str_eq(text, "", "nothing is said of nothing");
    free(text);
    dry_run_metrics_count(&a, POLICY_DRY_RUN_DENIED, "shop/d");
    dry_run_metrics_count(&b, POLICY_DRY_RUN_DENIED, "shop/d");
    dry_run_metrics_count(&b, POLICY_DRY_RUN_ALLOWED, "shop/a");
    dry_run_metrics_count(&b, POLICY_DRY_RUN_UNMATCHED, "");
    text = page();
    cr_expect(strstr(text, "bruma_dry_run_connections_total{outcome=\"denied\",policy=\"shop/d\"} 2\n"));
    cr_expect(strstr(text, "bruma_dry_run_connections_total{outcome=\"allowed\",policy=\"shop/a\"} 1\n"));
    cr_expect(strstr(text, "bruma_dry_run_connections_total{outcome=\"unmatched\",policy=\"\"} 1\n"));
    cr_expect(lines(text, "# TYPE bruma_dry_run_connections counter") == 1 && lines(text, "_total{") == 3,
              "%s", text);
    free(text);
}

Test(dry_run_metrics, more_policies_than_fit)
{
    char *text;

    for (int i = 0; i < 300; i++) {
        char name[32];

        snprintf(name, sizeof(name), "shop/p%d", i);
        dry_run_metrics_count(&a, POLICY_DRY_RUN_DENIED, name);
    }
    dry_run_metrics_count(&a, POLICY_DRY_RUN_DENIED, "shop/p7");
    text = page();
    cr_expect(lines(text, "_total{") == 257);
    cr_expect(strstr(text, "{outcome=\"denied\",policy=\"shop/p7\"} 2\n"), "those that are known go on");
    cr_expect(strstr(text, "{outcome=\"denied\",policy=\"other\"} 44\n"));
    free(text);
}
