/* SPDX-License-Identifier: Apache-2.0 */
#include "ctl/check_pages.h"

#include <stddef.h>
#include <string.h>

#include "lib/cleanup.h"

/* Checks of the agent (agent/api/doctor.c, agent/api/host_checks.c) and of brumactl.
 * tests/e2e/test_brumactl_check.py follows them. */
static const struct {
    const char *check, *page;
} pages[] = {
    {"kernel", "docs/install.md#kernels"},
    {"cgroup", "docs/install.md#installing-in-kubernetes"},
    {"pins", "docs/install.md#installing-in-kubernetes"},
    {"connect hooks", "docs/architecture.md#the-programs-in-the-kernel"},
    {"hook", "docs/architecture.md#the-programs-in-the-kernel"},
    {"programs on the hook", "docs/install.md#cilium"},
    {"programs in a pod", "docs/architecture.md#the-programs-in-the-kernel"},
    {"CNI network", "docs/install.md#the-entry"},
    {"MTU", "docs/brumactl.md#before-and-after-an-install"},
    {"clock", "docs/architecture.md#certificates-and-the-clock"},
    {"agent", "docs/brumactl.md#how-the-nodes-are-reached"},
    {"proxy", "docs/brumactl.md#how-the-nodes-are-reached"},
    {"versions", "docs/install.md#upgrade"},
    {"control plane", "docs/kubernetes.md#istiod"},
    {"certificates", "docs/identities.md#where-identities-come-from"},
    {"pods", "docs/kubernetes.md#which-pods-belong-to-the-mesh"},
    {"pod", "docs/kubernetes.md#which-pods-belong-to-the-mesh"},
    {"same node", "docs/same-node.md#where-it-is-refused"},
    {"guard", "docs/kubernetes.md#the-guard"},
    {"kubelet", "docs/kubernetes.md#probes"},
    {"kubernetes", "docs/kubernetes.md#what-it-reads-and-writes"},
    {"mesh file", "docs/mesh-file.md"},
    {"direct ways", "docs/architecture.md#direct-ways"},
    {"steering failures", "docs/reasons.md"},
};

const char *check_page(const char *check)
{
    for (size_t i = 0; i < array_size(pages); i++)
        if (!strcmp(pages[i].check, check))
            return pages[i].page;
    return "docs/reasons.md";
}
