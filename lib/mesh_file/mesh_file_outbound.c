/* SPDX-License-Identifier: Apache-2.0 */
/* Annotations, and the outbound traffic policy of the mesh. */
#include <stddef.h>
#include <string.h>

#include "lib/cleanup.h"
#include "lib/mesh_file/mesh_file_items.h"

static const struct decode_name policies[] = {
    {"ALLOW_ANY", OUTBOUND_ALLOW_ANY}, {"REGISTRY_ONLY", OUTBOUND_REGISTRY_ONLY}, {NULL, 0}};
static const struct decode_name switches[] = {{"false", DIRECT_OFF}, {"true", DIRECT_ON}, {NULL, 0}};
static const struct decode_name same_node[] = {
    {"hbone", SAME_NODE_HBONE}, {"relay", SAME_NODE_RELAY}, {"kernel", SAME_NODE_KERNEL}, {NULL, 0}};

#define FIELD(field) offsetof(struct mesh_annotations, field)

/* Those that mean something. */
static const struct decode_field annotations[] = {
    {OUTBOUND_POLICY_ANNOTATION, decode_enum, FIELD(outbound_policy), false, policies},
    {DIRECT_OUTSIDE_ANNOTATION, decode_enum, FIELD(direct.outside), false, switches},
    {DIRECT_INBOUND_ANNOTATION, decode_enum, FIELD(direct.inbound), false, switches},
    {SAME_NODE_ANNOTATION, decode_enum, FIELD(direct.same_node), false, same_node},
};

static int read_value(struct decode *d, const char *key, const struct yaml_node *value, void *into)
{
    const char *text;

    for (size_t i = 0; i < array_size(annotations); i++) {
        if (!strcmp(key, annotations[i].key))
            return annotations[i].read(d, value, &annotations[i], (char *)into + annotations[i].offset);
    }
    return decode_text(d, value, NULL, &text);
}

int mesh_file_read_annotations(struct decode *d, const struct yaml_node *node,
                               const struct decode_field *field, void *into)
{
    int r = decode_expect(d, node, YAML_MAP, "a map of annotations");
    size_t before;

    (void)field;
    if (r < 0)
        return r;
    for (const struct yaml_node *key = node->child; key; key = key->next->next) {
        if (key->kind != YAML_SCALAR || !*key->text)
            return decode_fail(d, key, "an annotation's name must be text");
        before = decode_enter_key(d, key->text);
        r = read_value(d, key->text, key->next, into);
        if (r < 0)
            return r;
        decode_leave(d, before);
    }
    return 0;
}

int mesh_file_decode_outbound_policy(struct decode *d, const struct yaml_node *node,
                                     enum outbound_policy *ret)
{
    static const struct decode_field fields[] = {{"mode", decode_enum, 0, true, policies}};
    enum outbound_policy policy = OUTBOUND_UNSAID;
    size_t before = decode_enter_key(d, "outboundTrafficPolicy");
    int r = decode_map(d, node, fields, array_size(fields), &policy);

    if (r < 0)
        return r;
    decode_leave(d, before);
    *ret = policy;
    return 0;
}
