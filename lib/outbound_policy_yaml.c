/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <yaml.h>

#include "lib/outbound_policy.h"

static const char *text_of(const yaml_node_t *node)
{
    const char *text = node && node->type == YAML_SCALAR_NODE ? (const char *)node->data.scalar.value : NULL;

    return text && strlen(text) == node->data.scalar.length ? text : NULL;
}

static bool is_nothing(const yaml_node_t *node)
{
    const char *text = text_of(node);

    return !node || (text && node->data.scalar.style == YAML_PLAIN_SCALAR_STYLE &&
                     (!*text || !strcmp(text, "~") || !strcmp(text, "null")));
}

/* protobuf's JSON has two names for a field. */
static const yaml_node_t *member(yaml_document_t *document, const yaml_node_t *map, const char *name,
                                 const char *other)
{
    for (const yaml_node_pair_t *p = map->data.mapping.pairs.start; p < map->data.mapping.pairs.top; p++) {
        const char *key = text_of(yaml_document_get_node(document, p->key));

        if (key && (!strcmp(key, name) || !strcmp(key, other)))
            return yaml_document_get_node(document, p->value);
    }
    return NULL;
}

static int fail(const yaml_node_t *node, const char *what, char *error, size_t error_size)
{
    snprintf(error, error_size, "line %zu: %s", node->start_mark.line + 1, what);
    return -EBADMSG;
}

static int find(yaml_document_t *document, enum outbound_policy *ret, char *error, size_t error_size)
{
    const yaml_node_t *root = yaml_document_get_root_node(document), *policy, *mode;

    *ret = OUTBOUND_UNSAID;
    if (is_nothing(root))
        return 0;
    if (root->type != YAML_MAPPING_NODE)
        return fail(root, "a map is expected", error, error_size);
    policy = member(document, root, "outboundTrafficPolicy", "outbound_traffic_policy");
    if (is_nothing(policy))
        return 0;
    if (policy->type != YAML_MAPPING_NODE)
        return fail(policy, "outboundTrafficPolicy is not a map", error, error_size);
    mode = member(document, policy, "mode", "mode");
    if (is_nothing(mode))
        return 0;
    if (!text_of(mode) || outbound_policy_parse(text_of(mode), ret) < 0)
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
