/* SPDX-License-Identifier: Apache-2.0 */
/* Nodes of a YAML document, for configurations of which a few keys are read. */
#ifndef LIB_YAML_NODE_H
#define LIB_YAML_NODE_H

#include <stdbool.h>
#include <yaml.h>

/* A scalar's text, owned by the document; NULL: no node, not a scalar, or it holds a NUL. */
const char *yaml_node_text(const yaml_node_t *node);

/* Whether there is no value: no node, or a plain scalar that is empty, "~" or "null". */
bool yaml_node_is_nothing(const yaml_node_t *node);

/* The value of a mapping's first key that is "name" or, unless NULL, "other"; owned by the document. NULL:
 * there is none. "map" is a mapping of the document. */
const yaml_node_t *yaml_node_member(yaml_document_t *document, const yaml_node_t *map, const char *name,
                                    const char *other);

#endif
