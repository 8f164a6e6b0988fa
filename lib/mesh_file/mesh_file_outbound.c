/* SPDX-License-Identifier: Apache-2.0 */
/* The outbound traffic policy: of the mesh, and in annotations. */
#include <string.h>

#include "lib/cleanup.h"
#include "lib/mesh_file/mesh_file_items.h"

static const struct decode_name policies[] = {
    {"ALLOW_ANY", OUTBOUND_ALLOW_ANY}, {"REGISTRY_ONLY", OUTBOUND_REGISTRY_ONLY}, {NULL, 0}};
static const struct decode_field policy_field = {.key = OUTBOUND_POLICY_ANNOTATION, .more = policies};

int mesh_file_read_annotations(struct decode *d, const struct yaml_node *node,
                               const struct decode_field *field, void *into)
{
    int r = decode_expect(d, node, YAML_MAP, "a map of annotations");
    const char *text;
    size_t before;

    (void)field;
    if (r < 0)
        return r;
    for (const struct yaml_node *key = node->child; key; key = key->next->next) {
        if (key->kind != YAML_SCALAR || !*key->text)
            return decode_fail(d, key, "an annotation's name must be text");
        before = decode_enter_key(d, key->text);
        r = strcmp(key->text, OUTBOUND_POLICY_ANNOTATION) != 0
                ? decode_text(d, key->next, NULL, &text)
                : decode_enum(d, key->next, &policy_field, into);
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
