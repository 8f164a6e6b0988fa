/* SPDX-License-Identifier: Apache-2.0 */
#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>

#include "lib/outbound_policy.h"

static char error[200];

static int of(const char *yaml, enum outbound_policy *ret)
{
    error[0] = '\0';
    return outbound_policy_of_mesh(yaml, strlen(yaml), ret, error, sizeof(error));
}

static void is(const char *yaml, enum outbound_policy wanted)
{
    enum outbound_policy policy = OUTBOUND_UNSAID;

    cr_expect(of(yaml, &policy) == 0, "%s: %s", yaml, error);
    cr_expect(policy == wanted, "%s: %d, not %d", yaml, policy, wanted);
}

static void is_refused(const char *yaml, const char *words)
{
    enum outbound_policy policy = OUTBOUND_REGISTRY_ONLY;

    cr_expect(of(yaml, &policy) == -EBADMSG, "%s", yaml);
    cr_expect(strstr(error, words) != NULL, "%s: \"%s\"", yaml, error);
    cr_expect(policy == OUTBOUND_REGISTRY_ONLY, "what is wrong changes nothing");
}

Test(outbound_policy, of_a_mesh_configuration)
{
    is("outboundTrafficPolicy:\n  mode: REGISTRY_ONLY\n", OUTBOUND_REGISTRY_ONLY);
    is("defaultConfig:\n  discoveryAddress: istiod\noutboundTrafficPolicy: {mode: ALLOW_ANY}",
       OUTBOUND_ALLOW_ANY);
    is("outboundTrafficPolicy: {\"mode\": \"REGISTRY_ONLY\"}", OUTBOUND_REGISTRY_ONLY);
    is("{\"outbound_traffic_policy\": {\"mode\": 0}}", OUTBOUND_REGISTRY_ONLY);
    is("outboundTrafficPolicy: {mode: ALLOW_ANY_DYNAMIC_DNS}", OUTBOUND_ALLOW_ANY);
}

Test(outbound_policy, that_is_not_given)
{
    is("", OUTBOUND_UNSAID);
    is("# nothing\n", OUTBOUND_UNSAID);
    is("{}", OUTBOUND_UNSAID);
    is("trustDomain: cluster.local", OUTBOUND_UNSAID);
    is("outboundTrafficPolicy:", OUTBOUND_UNSAID);
    is("outboundTrafficPolicy: {}", OUTBOUND_UNSAID);
    is("outboundTrafficPolicy: {mode: null}", OUTBOUND_UNSAID);
    /* of something else, such as a Sidecar in a comment or below another key */
    is("defaultConfig: {outboundTrafficPolicy: {mode: REGISTRY_ONLY}}", OUTBOUND_UNSAID);
}

Test(outbound_policy, that_is_wrong)
{
    is_refused("outboundTrafficPolicy: {mode: registry_only}", "neither ALLOW_ANY nor REGISTRY_ONLY");
    is_refused("a: 1\noutboundTrafficPolicy: {mode: [REGISTRY_ONLY]}", "line 2");
    is_refused("outboundTrafficPolicy: {mode: \"\"}", "neither");
    is_refused("outboundTrafficPolicy: REGISTRY_ONLY", "not a map");
    is_refused("[]", "a map is expected");
    is_refused("REGISTRY_ONLY", "a map is expected");
    is_refused("outboundTrafficPolicy: {mode: ALLOW_ANY", "not YAML");
    is_refused("a: *b", "not YAML");
}

Test(outbound_policy, names)
{
    enum outbound_policy policy;

    for (enum outbound_policy p = OUTBOUND_ALLOW_ANY; p <= OUTBOUND_REGISTRY_ONLY; p++)
        cr_expect(outbound_policy_parse(outbound_policy_name(p), &policy) == 0 && policy == p);
    cr_expect(!strcmp(outbound_policy_name(OUTBOUND_UNSAID), ""));
    cr_expect(outbound_policy_parse("", &policy) == -EINVAL);
    cr_expect(outbound_policy_parse(" ALLOW_ANY", &policy) == -EINVAL);
}
