/* SPDX-License-Identifier: Apache-2.0 */
#include "lib/yaml_node.h"

#include <string.h>

const char *yaml_node_text(const yaml_node_t *node)
{
    const char *text = node && node->type == YAML_SCALAR_NODE ? (const char *)node->data.scalar.value : NULL;

    return text && strlen(text) == node->data.scalar.length ? text : NULL;
}

bool yaml_node_is_nothing(const yaml_node_t *node)
{
    const char *text = yaml_node_text(node);

    return !node || (text && node->data.scalar.style == YAML_PLAIN_SCALAR_STYLE &&
                     (!*text || !strcmp(text, "~") || !strcmp(text, "null")));
}

const yaml_node_t *yaml_node_member(yaml_document_t *document, const yaml_node_t *map, const char *name,
                                    const char *other)
{
    for (const yaml_node_pair_t *p = map->data.mapping.pairs.start; p < map->data.mapping.pairs.top; p++) {
        const char *key = yaml_node_text(yaml_document_get_node(document, p->key));

        if (key && (!strcmp(key, name) || (other && !strcmp(key, other))))
            return yaml_document_get_node(document, p->value);
    }
    return NULL;
}
