/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/admin/state_dump.h"

/* Takes the item also if it fails; NULL fails. */
static cJSON *append(cJSON *array, cJSON *item)
{
    if (!array || !item) {
        cJSON_Delete(item);
        return NULL;
    }
    cJSON_AddItemToArray(array, item);
    return item;
}

static cJSON *string_item(const struct string_match *m)
{
    static const char *const kinds[] = {"Exact", "Prefix", "Suffix", "Presence", "Always", "Never"};
    cJSON *o = cJSON_CreateObject();

    if (!o)
        return NULL;
    if (m->kind >= STRING_PRESENCE)
        cJSON_AddArrayToObject(o, kinds[m->kind]);
    else
        cJSON_AddStringToObject(o, kinds[m->kind], m->text);
    return o;
}

static cJSON *cidr_item(const struct cidr_match *m)
{
    char text[ADDR_TEXT_LEN + 4];

    if (m->kind != STRING_EXACT)
        return cJSON_CreateString(m->kind == STRING_ALWAYS ? "always" : "never");
    return cJSON_CreateString(cidr_format(&m->cidr, text, sizeof(text)));
}

static cJSON *account_item(const struct account_match *m)
{
    cJSON *o = cJSON_CreateObject();

    if (!o)
        return NULL;
    cJSON_AddStringToObject(o, "namespace", m->namespace);
    cJSON_AddStringToObject(o, "serviceAccount", m->name);
    return o;
}

static cJSON *list_item(const struct match *m, enum match_list list, uint32_t i)
{
    switch (list) {
    case MATCH_SOURCE_IPS:
    case MATCH_NOT_SOURCE_IPS:
    case MATCH_DESTINATION_IPS:
    case MATCH_NOT_DESTINATION_IPS:
        return cidr_item(&m->list[list].cidrs[i]);
    case MATCH_DESTINATION_PORTS:
    case MATCH_NOT_DESTINATION_PORTS:
        return cJSON_CreateNumber(m->list[list].ports[i]);
    case MATCH_ACCOUNTS:
    case MATCH_NOT_ACCOUNTS:
        return account_item(&m->list[list].accounts[i]);
    default:
        return string_item(&m->list[list].strings[i]);
    }
}

static bool add_match(cJSON *array, const struct match *m)
{
    static const char *const keys[MATCH_LISTS] = {
        [MATCH_NAMESPACES] = "namespaces",
        [MATCH_NOT_NAMESPACES] = "notNamespaces",
        [MATCH_PRINCIPALS] = "principals",
        [MATCH_NOT_PRINCIPALS] = "notPrincipals",
        [MATCH_SOURCE_IPS] = "sourceIps",
        [MATCH_NOT_SOURCE_IPS] = "notSourceIps",
        [MATCH_DESTINATION_IPS] = "destinationIps",
        [MATCH_NOT_DESTINATION_IPS] = "notDestinationIps",
        [MATCH_DESTINATION_PORTS] = "destinationPorts",
        [MATCH_NOT_DESTINATION_PORTS] = "notDestinationPorts",
        [MATCH_ACCOUNTS] = "serviceAccounts",
        [MATCH_NOT_ACCOUNTS] = "notServiceAccounts",
    };
    cJSON *o = append(array, cJSON_CreateObject());

    for (int list = 0; o && list < MATCH_LISTS; list++) {
        cJSON *items = m->len[list] ? cJSON_AddArrayToObject(o, keys[list]) : NULL;

        for (uint32_t i = 0; i < m->len[list]; i++) {
            if (!append(items, list_item(m, (enum match_list)list, i)))
                return false;
        }
    }
    return o != NULL;
}

static bool add_clause(cJSON *array, const struct clause *clause)
{
    cJSON *matches = append(array, cJSON_CreateArray());

    for (uint32_t i = 0; matches && i < clause->len; i++) {
        if (!add_match(matches, &clause->matches[i]))
            return false;
    }
    return matches != NULL;
}

static bool add_rule(cJSON *array, const struct rule *rule)
{
    cJSON *clauses = append(array, cJSON_CreateArray());

    for (uint32_t i = 0; clauses && i < rule->len; i++) {
        if (!add_clause(clauses, &rule->clauses[i]))
            return false;
    }
    return clauses != NULL;
}

bool policy_dump(const struct policy *policy, cJSON *array)
{
    static const char *const scopes[] = {"Global", "Namespace", "WorkloadSelector"};
    cJSON *o = append(array, cJSON_CreateObject()), *rules;

    if (!o || !cJSON_AddStringToObject(o, "name", policy->name) ||
        !cJSON_AddStringToObject(o, "namespace", policy->namespace) ||
        !cJSON_AddStringToObject(o, "scope", scopes[policy->scope]) ||
        !cJSON_AddStringToObject(o, "action", policy->deny ? "Deny" : "Allow") ||
        !cJSON_AddBoolToObject(o, "dryRun", policy->dry_run))
        return false;
    rules = cJSON_AddArrayToObject(o, "rules");
    for (uint32_t i = 0; rules && i < policy->len; i++) {
        if (!add_rule(rules, &policy->rules[i]))
            return false;
    }
    return rules != NULL;
}
