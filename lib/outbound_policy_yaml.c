/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <yaml.h>

#include "lib/outbound_policy.h"
#include "lib/yaml_node.h"

static int fail(const yaml_node_t *node, const char *what, char *error, size_t error_size)
{
    snprintf(error, error_size, "line %zu: %s", node->start_mark.line + 1, what);
    return -EBADMSG;
}

static int find(yaml_document_t *document, enum outbound_policy *ret, char *error, size_t error_size)
{
    const yaml_node_t *root = yaml_document_get_root_node(document), *policy, *mode;

    *ret = OUTBOUND_UNSAID;
    if (yaml_node_is_nothing(root))
        return 0;
    if (root->type != YAML_MAPPING_NODE)
        return fail(root, "a map is expected", error, error_size);
    /* protobuf's JSON has two names for a field. */
    policy = yaml_node_member(document, root, "outboundTrafficPolicy", "outbound_traffic_policy");
    if (yaml_node_is_nothing(policy))
        return 0;
    if (policy->type != YAML_MAPPING_NODE)
        return fail(policy, "outboundTrafficPolicy is not a map", error, error_size);
    mode = yaml_node_member(document, policy, "mode", NULL);
    if (yaml_node_is_nothing(mode))
        return 0;
    if (!yaml_node_text(mode) || outbound_policy_parse(yaml_node_text(mode), ret) < 0)
        return fail(mode, "outboundTrafficPolicy.mode is neither ALLOW_ANY nor REGISTRY_ONLY", error,
                    error_size);
    return 0;
}

int outbound_policy_of_mesh(const char *yaml, size_t len, enum outbound_policy *ret, char *error,
                            size_t error_size)
{
    enum outbound_policy policy = OUTBOUND_UNSAID;
    yaml_document_t document;
    yaml_parser_t parser;
    int r;

    if (!yaml_parser_initialize(&parser))
        return -ENOMEM;
    yaml_parser_set_input_string(&parser, (const unsigned char *)yaml, len);
    if (!yaml_parser_load(&parser, &document)) {
        r = parser.error == YAML_MEMORY_ERROR ? -ENOMEM : -EBADMSG;
        snprintf(error, error_size, "line %zu: not YAML: %s", parser.problem_mark.line + 1,
                 parser.problem ? parser.problem : "unreadable");
        yaml_parser_delete(&parser);
        return r;
    }
    r = find(&document, &policy, error, error_size);
    yaml_document_delete(&document);
    yaml_parser_delete(&parser);
    if (r == 0)
        *ret = policy;
    return r;
}
