/* SPDX-License-Identifier: Apache-2.0 */
#include "lib/mesh_file/mesh_file_items.h"

#include <errno.h>
#include <string.h>

#include "lib/cleanup.h"

typedef Istio__Security__Authorization policy;
typedef Istio__Security__StringMatch string_match;

static const char *const kinds[] = {"Exact", "Prefix", "Suffix", "Presence"};

static int set_match(struct decode *d, const struct yaml_node *node, const char *kind, string_match *match)
{
    const char *text;
    size_t i = 0;
    int r;

    while (i < array_size(kinds) && strcmp(kinds[i], kind) != 0)
        i++;
    if (i == array_size(kinds))
        return decode_fail(d, node, "\"%s\" is not one of Exact, Prefix, Suffix, Presence",
                           decode_show(d, kind));
    if (i == 3) {
        /* Its value says nothing: an empty list, as the dump of the configuration has it, or nothing. */
        if (node->child || (node->kind == YAML_SCALAR && *node->text && !decode_is_null(node)))
            return decode_fail(d, node, "Presence takes no value; write it as !Presence []");
        match->presence = decode_alloc(d, sizeof(*match->presence));
        if (!match->presence)
            return -ENOMEM;
        google__protobuf__empty__init(match->presence);
        match->match_type_case = ISTIO__SECURITY__STRING_MATCH__MATCH_TYPE_PRESENCE;
        return 0;
    }
    r = decode_text(d, node, NULL, &text);
    if (r < 0)
        return r;
    if (!*text)
        return decode_fail(d, node, "%s needs some text; any value at all is !Presence []", kinds[i]);
    match->match_type_case = (Istio__Security__StringMatch__MatchTypeCase)(i + 1);
    match->exact = (char *)text; /* one union for the three */
    return 0;
}

/* !Exact text, or {Exact: text}. into: string_match ** */
static int read_string_match(struct decode *d, const struct yaml_node *node, const struct decode_field *field,
                             void *into)
{
    string_match *match = decode_alloc(d, sizeof(*match));
    struct yaml_node value = *node;

    if (!match)
        return -ENOMEM;
    istio__security__string_match__init(match);
    *(string_match **)into = match;
    if (node->tag) {
        value.tag = NULL;
        return set_match(d, &value, node->tag + 1, match);
    }
    if (node->kind == YAML_MAP && decode_count(node) == 2 && node->child->kind == YAML_SCALAR)
        return set_match(d, node->child->next, node->child->text, match);
    return decode_fail(
        d, node,
        "expected a match: !Exact TEXT, !Prefix TEXT, !Suffix TEXT or !Presence [], or {Exact: TEXT}");
}

/* into: Istio__Security__Address ** */
static int read_range(struct decode *d, const struct yaml_node *node, const struct decode_field *field,
                      void *into)
{
    Istio__Security__Address *address = decode_alloc(d, sizeof(*address));
    int r;

    if (!address)
        return -ENOMEM;
    istio__security__address__init(address);
    *(Istio__Security__Address **)into = address;
    r = decode_expect(d, node, YAML_SCALAR, "an IP address or a range");
    return r < 0 ? r : decode_cidr(d, node, node->text, &address->address, &address->length);
}

static const struct decode_field account_fields[] = {
    {"namespace", decode_word, offsetof(Istio__Security__ServiceAccountMatch, namespace_), true, NULL},
    {"serviceAccount", decode_word, offsetof(Istio__Security__ServiceAccountMatch, service_account), true,
     NULL},
};
static const struct decode_message account = {&istio__security__service_account_match__descriptor,
                                              account_fields, array_size(account_fields)};

static const struct decode_elements string_matches = {sizeof(void *), read_string_match, NULL};
static const struct decode_elements ip_ranges = {sizeof(void *), read_range, NULL};
static const struct decode_elements ports = {sizeof(uint32_t), decode_port, NULL};
static const struct decode_elements accounts = {sizeof(void *), decode_message, &account};

#define LIST(key, field, elements)                                                        \
    {                                                                                     \
        key, decode_list, offsetof(Istio__Security__Match, n_##field), false, &(elements) \
    }

static const struct decode_field match_fields[] = {
    LIST("namespaces", namespaces, string_matches),
    LIST("notNamespaces", not_namespaces, string_matches),
    LIST("principals", principals, string_matches),
    LIST("notPrincipals", not_principals, string_matches),
    LIST("serviceAccounts", service_accounts, accounts),
    LIST("notServiceAccounts", not_service_accounts, accounts),
    LIST("sourceIps", source_ips, ip_ranges),
    LIST("notSourceIps", not_source_ips, ip_ranges),
    LIST("destinationIps", destination_ips, ip_ranges),
    LIST("notDestinationIps", not_destination_ips, ip_ranges),
    LIST("destinationPorts", destination_ports, ports),
    LIST("notDestinationPorts", not_destination_ports, ports),
};
static const struct decode_message match = {&istio__security__match__descriptor, match_fields,
                                            array_size(match_fields)};
static const struct decode_elements matches = {sizeof(void *), decode_message, &match};

/* A clause is a list of matches, a rule a list of clauses: neither has a key of its own. */
static int read_clause(struct decode *d, const struct yaml_node *node, const struct decode_field *field,
                       void *into)
{
    Istio__Security__Clause *clause = decode_alloc(d, sizeof(*clause));

    if (!clause)
        return -ENOMEM;
    istio__security__clause__init(clause);
    *(Istio__Security__Clause **)into = clause;
    return decode_list(d, node, &(const struct decode_field){.more = &matches}, &clause->n_matches);
}

static int read_rule(struct decode *d, const struct yaml_node *node, const struct decode_field *field,
                     void *into)
{
    static const struct decode_elements clauses = {sizeof(void *), read_clause, NULL};
    Istio__Security__Rule *rule = decode_alloc(d, sizeof(*rule));

    if (!rule)
        return -ENOMEM;
    istio__security__rule__init(rule);
    *(Istio__Security__Rule **)into = rule;
    return decode_list(d, node, &(const struct decode_field){.more = &clauses}, &rule->n_clauses);
}

static const struct decode_name scopes[] = {
    {"Global", ISTIO__SECURITY__SCOPE__GLOBAL},
    {"Namespace", ISTIO__SECURITY__SCOPE__NAMESPACE},
    {"WorkloadSelector", ISTIO__SECURITY__SCOPE__WORKLOAD_SELECTOR},
    {NULL, 0},
};
static const struct decode_name actions[] = {
    {"Allow", ISTIO__SECURITY__ACTION__ALLOW}, {"Deny", ISTIO__SECURITY__ACTION__DENY}, {NULL, 0}};

int mesh_file_decode_policy(struct decode *d, const struct yaml_node *node,
                            Istio__Security__Authorization *ret)
{
    static const struct decode_elements rules = {sizeof(void *), read_rule, NULL};
    static const struct decode_field fields[] = {
        {"name", decode_word, offsetof(policy, name), true, NULL},
        {"namespace", decode_word, offsetof(policy, namespace_), true, NULL},
        {"scope", decode_enum, offsetof(policy, scope), true, scopes},
        {"action", decode_enum, offsetof(policy, action), true, actions},
        {"dryRun", decode_bool, offsetof(policy, dry_run), false, NULL},
        {"rules", decode_list, offsetof(policy, n_rules), true, &rules},
    };

    istio__security__authorization__init(ret);
    return decode_map(d, node, fields, array_size(fields), ret);
}
