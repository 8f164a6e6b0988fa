/* SPDX-License-Identifier: Apache-2.0 */
/* A worker's telemetry whose log is a file in memory. */
#ifndef TESTS_UNIT_PROXY_TELEMETRY_TELEMETRY_SITE_H
#define TESTS_UNIT_PROXY_TELEMETRY_TELEMETRY_SITE_H

#include "proxy/telemetry/telemetry_internal.h"
#include "tests/unit/proxy/telemetry/telemetry_samples.h"

extern struct loop *loop;
extern struct telemetry *t; /* a test may free it and make another */
extern int log_fd;

/* Of each test. The second one also looks whether everything that was referenced is given back. */
void telemetry_setup(void);
void telemetry_teardown(void);

bool metrics_have(const char *text);
uint64_t series_held(void);

/* The labels of sample_flow(), around those of the flags. */
#define BEFORE_FLAGS                                                                                         \
    "{reporter=\"source\",source_workload=\"cart-deploy\",source_canonical_service=\"cart\","                \
    "source_canonical_revision=\"v2\",source_workload_namespace=\"shop\","                                   \
    "source_principal=\"spiffe://cluster.local/ns/shop/sa/cart\",source_app=\"cart\",source_version=\"v2\"," \
    "source_cluster=\"Kubernetes\",destination_service=\"redis.shop.svc.cluster.local\","                    \
    "destination_service_namespace=\"shop\",destination_service_name=\"redis\",destination_workload="        \
    "\"redis\","                                                                                             \
    "destination_canonical_service=\"redis\",destination_canonical_revision=\"unknown\","                    \
    "destination_workload_namespace=\"shop\",destination_principal=\"spiffe://cluster.local/ns/shop/sa/"     \
    "redis\","                                                                                               \
    "destination_app=\"redis\",destination_version=\"unknown\",destination_cluster=\"Kubernetes\","          \
    "request_protocol=\"tcp\",response_flags=\""
#define AFTER_FLAGS                                                                                 \
    "\",connection_security_policy=\"mutual_tls\",source_region=\"north\",source_zone=\"north-1\"," \
    "destination_region=\"unknown\",destination_zone=\"unknown\"} "

#endif
