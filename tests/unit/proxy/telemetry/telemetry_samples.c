/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/proxy/telemetry/telemetry_samples.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

struct workload sample_cart = {
    .references = 1,
    .uid = "cart",
    .name = "cart-6c9f-x2k",
    .namespace = "shop",
    .service_account = "cart",
    .trust_domain = "cluster.local",
    .network = "",
    .node = "node-a",
    .cluster_id = "Kubernetes",
    .canonical_name = "cart",
    .canonical_revision = "v2",
    .workload_name = "cart-deploy",
    .hostname = "",
    .region = "north",
    .zone = "north-1",
    .subzone = "",
    .identity = "spiffe://cluster.local/ns/shop/sa/cart",
    .protocol = TUNNEL_HBONE,
    .type = WORKLOAD_DEPLOYMENT,
};

struct workload sample_redis = {
    .references = 1,
    .uid = "redis",
    .name = "redis-0",
    .namespace = "shop",
    .service_account = "redis",
    .trust_domain = "cluster.local",
    .network = "",
    .node = "node-b",
    .cluster_id = "Kubernetes",
    .canonical_name = "redis",
    .canonical_revision = "",
    .workload_name = "redis",
    .hostname = "",
    .region = "",
    .zone = "",
    .subzone = "",
    .identity = "spiffe://cluster.local/ns/shop/sa/redis",
    .protocol = TUNNEL_HBONE,
    .type = WORKLOAD_POD,
};

struct service sample_service = {
    .references = 1, .name = "redis", .namespace = "shop", .hostname = "redis.shop.svc.cluster.local"};

struct flow sample_flow(void)
{
    struct flow flow = {
        .reporter = REPORTER_SOURCE,
        .mutual_tls = true,
        .source = &sample_cart,
        .destination = &sample_redis,
        .service = &sample_service,
        .source_identity = sample_cart.identity,
        .destination_identity = sample_redis.identity,
        .hbone_authority = "10.1.3.9:6379",
    };

    cr_assert(endpoint_parse("10.1.0.7:40122", &flow.source_address) == 0);
    cr_assert(endpoint_parse("10.1.3.9:15008", &flow.destination_address) == 0);
    return flow;
}

char *file_text(int fd)
{
    struct stat st;
    char *text;

    cr_assert(fstat(fd, &st) == 0);
    text = malloc((size_t)st.st_size + 1);
    cr_assert(text != NULL);
    cr_assert(pread(fd, text, (size_t)st.st_size, 0) == st.st_size);
    text[st.st_size] = '\0';
    return text;
}

char *metrics_text(struct telemetry *const *all, size_t count)
{
    char *text = NULL;
    size_t len = 0;
    FILE *out = open_memstream(&text, &len);

    cr_assert(out != NULL);
    telemetry_write_metrics(all, count, out);
    cr_assert(fclose(out) == 0);
    return text;
}

static struct loop *running;

static void stop(struct loop_timer *timer)
{
    loop_stop(running);
}

/* A loop that was stopped stays so: it runs once. */
void run_for(struct loop *loop, unsigned milliseconds)
{
    struct loop_timer timer;

    running = loop;
    loop_timer_init(&timer, stop);
    loop_timer_set(loop, &timer, milliseconds);
    cr_assert(loop_run(loop) == 0);
    loop_timer_cancel(&timer);
}
