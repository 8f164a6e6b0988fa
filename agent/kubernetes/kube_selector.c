/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/kubernetes/kube_selector.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent/kubernetes/kube_object.h"
#include "lib/cleanup.h"
#include "lib/mesh_file/mesh_file_yaml.h"

#define ORIGIN "enablement-selector"

enum op { IN, NOT_IN, EXISTS, DOES_NOT_EXIST, OPERATOR_COUNT };

struct term {
    struct term *next;
    enum op op;
    const char *key;
    const struct yaml_node *values; /* the first of a list, or the one of a label */
    bool one;
};

struct selector_pair {
    struct selector_pair *next;
    struct term *pod, *namespace;
};

/* Everything but the pairs and terms lives in the source's arena. */
struct kube_selectors {
    struct yaml_source source;
    struct mesh_file_error error;
    struct selector_pair *pairs;
};

struct selector_parse {
    struct kube_selectors *selectors;
    struct mesh_file_error *error;
};

#define fail(p, node, ...) yaml_fail((p)->error, ORIGIN, (node)->line, (node)->column, __VA_ARGS__)

static int expect(struct selector_parse *p, const struct yaml_node *node, enum yaml_kind kind,
                  const char *what)
{
    static const char *const names[] = {[YAML_SCALAR] = "text", [YAML_LIST] = "a list", [YAML_MAP] = "a map"};

    return node->kind == kind ? 0 : fail(p, node, "%s must be %s", what, names[kind]);
}

static int add_term(struct selector_parse *p, struct term **terms, enum op op, const char *key,
                    const struct yaml_node *values, bool one)
{
    struct term *t = calloc(1, sizeof(*t));

    if (!t)
        return -ENOMEM;
    *t = (struct term){.next = *terms, .op = op, .key = key, .values = values, .one = one};
    *terms = t;
    return 0;
}

static int read_labels(struct selector_parse *p, const struct yaml_node *map, struct term **terms)
{
    int r = expect(p, map, YAML_MAP, "matchLabels");

    for (const struct yaml_node *key = map->child; r == 0 && key; key = key->next->next) {
        r = expect(p, key, YAML_SCALAR, "a label's key");
        if (r == 0)
            r = expect(p, key->next, YAML_SCALAR, "a label's value");
        if (r == 0)
            r = add_term(p, terms, IN, key->text, key->next, true);
    }
    return r;
}

static int read_operator(struct selector_parse *p, const struct yaml_node *node, enum op *ret)
{
    static const char *const names[OPERATOR_COUNT] = {"In", "NotIn", "Exists", "DoesNotExist"};
    int r = expect(p, node, YAML_SCALAR, "operator");

    if (r < 0)
        return r;
    for (int i = 0; i < OPERATOR_COUNT; i++) {
        if (!strcmp(node->text, names[i])) {
            *ret = (enum op)i;
            return 0;
        }
    }
    return fail(p, node, "operator must be In, NotIn, Exists or DoesNotExist");
}

static int read_values(struct selector_parse *p, const struct yaml_node *list)
{
    int r = expect(p, list, YAML_LIST, "values");

    for (const struct yaml_node *v = list->child; r == 0 && v; v = v->next)
        r = expect(p, v, YAML_SCALAR, "a value");
    return r;
}

static int read_expression(struct selector_parse *p, const struct yaml_node *map, struct term **terms)
{
    const struct yaml_node *key = NULL, *word = NULL, *values = NULL;
    enum op op = IN;
    int r = expect(p, map, YAML_MAP, "an expression");

    for (const struct yaml_node *k = map->child; r == 0 && k; k = k->next->next) {
        if (k->kind == YAML_SCALAR && !strcmp(k->text, "key"))
            key = k->next;
        else if (k->kind == YAML_SCALAR && !strcmp(k->text, "operator"))
            word = k->next;
        else if (k->kind == YAML_SCALAR && !strcmp(k->text, "values"))
            values = k->next;
        else
            r = fail(p, k, "unknown field; known here: key, operator, values");
    }
    if (r < 0)
        return r;
    if (!key || !word)
        return fail(p, map, "an expression needs key and operator");
    r = expect(p, key, YAML_SCALAR, "key");
    if (r == 0)
        r = read_operator(p, word, &op);
    if (r == 0 && values)
        r = read_values(p, values);
    if (r == 0 && (op == IN || op == NOT_IN) && (!values || !values->child))
        r = fail(p, map, "In and NotIn need values");
    if (r == 0 && (op == EXISTS || op == DOES_NOT_EXIST) && values && values->child)
        r = fail(p, values, "Exists and DoesNotExist take no values");
    return r < 0 ? r : add_term(p, terms, op, key->text, values ? values->child : NULL, false);
}

static int read_expressions(struct selector_parse *p, const struct yaml_node *list, struct term **terms)
{
    int r = expect(p, list, YAML_LIST, "matchExpressions");

    for (const struct yaml_node *e = list->child; r == 0 && e; e = e->next)
        r = read_expression(p, e, terms);
    return r;
}

/* A scalar without text is YAML's null: an empty selector. */
static bool is_null(const struct yaml_node *node)
{
    return node->kind == YAML_SCALAR && node->plain &&
           (!*node->text || !strcmp(node->text, "null") || !strcmp(node->text, "~"));
}

static int read_selector(struct selector_parse *p, const struct yaml_node *map, struct term **terms)
{
    int r = is_null(map) ? 0 : expect(p, map, YAML_MAP, "a selector");

    for (const struct yaml_node *k = map->child; r == 0 && k; k = k->next->next) {
        if (k->kind == YAML_SCALAR && !strcmp(k->text, "matchLabels"))
            r = read_labels(p, k->next, terms);
        else if (k->kind == YAML_SCALAR && !strcmp(k->text, "matchExpressions"))
            r = read_expressions(p, k->next, terms);
        else
            r = fail(p, k, "unknown field; known here: matchLabels, matchExpressions");
    }
    return r;
}

static int read_pair(struct selector_parse *p, const struct yaml_node *map, struct selector_pair *pair)
{
    int r = expect(p, map, YAML_MAP, "an entry");

    for (const struct yaml_node *k = map->child; r == 0 && k; k = k->next->next) {
        if (k->kind == YAML_SCALAR && !strcmp(k->text, "podSelector"))
            r = read_selector(p, k->next, &pair->pod);
        else if (k->kind == YAML_SCALAR && !strcmp(k->text, "namespaceSelector"))
            r = read_selector(p, k->next, &pair->namespace);
        else
            r = fail(p, k, "unknown field; known here: podSelector, namespaceSelector");
    }
    return r;
}

static int read_pairs(struct selector_parse *p, const struct yaml_node *list)
{
    struct selector_pair **tail = &p->selectors->pairs;
    int r = is_null(list) ? 0 : expect(p, list, YAML_LIST, "the whole");

    for (const struct yaml_node *e = list->child; r == 0 && e; e = e->next) {
        *tail = calloc(1, sizeof(**tail));
        if (!*tail)
            return -ENOMEM;
        r = read_pair(p, e, *tail);
        tail = &(*tail)->next;
    }
    return r;
}

static int read_document(struct selector_parse *p)
{
    struct yaml_source *s = &p->selectors->source;
    struct yaml_node *root = NULL;
    int r = yaml_source_next(s); /* the stream's start */

    if (r == 0)
        r = yaml_source_next(s);
    if (r < 0 || s->event.type == YAML_STREAM_END_EVENT)
        return r;
    r = yaml_source_next(s); /* behind the document's start */
    if (r == 0)
        r = yaml_source_tree(s, &root);
    return r < 0 || !root ? r : read_pairs(p, root);
}

int kube_selectors_parse(const char *text, struct kube_selectors **ret, char *error, size_t error_size)
{
    struct kube_selectors *s = calloc(1, sizeof(*s));
    struct selector_parse p = {.selectors = s, .error = s ? &s->error : NULL};
    int r = -ENOMEM;

    if (s && yaml_source_open(&s->source, ORIGIN, text, strlen(text), &s->error) == 0)
        r = read_document(&p);
    else
        snprintf(error, error_size, "no memory");
    if (r == 0) {
        *ret = s;
        return 0;
    }
    if (s)
        snprintf(error, error_size, "%s", r == -ENOMEM ? "no memory" : s->error.text);
    kube_selectors_free(&s);
    return r == -ENOMEM ? r : -EINVAL;
}

static void free_terms(struct term *t)
{
    while (t) {
        struct term *next = t->next;

        free(t);
        t = next;
    }
}

void kube_selectors_free(struct kube_selectors **selectors)
{
    struct kube_selectors *s = *selectors;

    if (!s)
        return;
    while (s->pairs) {
        struct selector_pair *next = s->pairs->next;

        free_terms(s->pairs->pod);
        free_terms(s->pairs->namespace);
        free(s->pairs);
        s->pairs = next;
    }
    yaml_source_close(&s->source);
    free(s);
    *selectors = NULL;
}

static bool is_among(const struct term *t, const char *value)
{
    for (const struct yaml_node *v = t->values; v; v = t->one ? NULL : v->next) {
        if (!strcmp(v->text, value))
            return true;
    }
    return false;
}

static bool terms_match(const struct term *t, const cJSON *labels)
{
    for (; t; t = t->next) {
        const char *value = kube_label(labels, t->key);
        bool among = value && is_among(t, value);

        if ((t->op == IN && !among) || (t->op == NOT_IN && among) || (t->op == EXISTS && !value) ||
            (t->op == DOES_NOT_EXIST && value))
            return false;
    }
    return true;
}

int kube_selectors_match(const struct kube_selectors *selectors, const cJSON *pod_labels,
                         const cJSON *namespace_labels)
{
    int i = 0;

    for (const struct selector_pair *p = selectors->pairs; p; p = p->next, i++) {
        if (terms_match(p->pod, pod_labels) && terms_match(p->namespace, namespace_labels))
            return i;
    }
    return -1;
}

bool kube_selectors_possible(const struct kube_selectors *selectors, const cJSON *namespace_labels)
{
    for (const struct selector_pair *p = selectors->pairs; p; p = p->next) {
        if (terms_match(p->namespace, namespace_labels))
            return true;
    }
    return false;
}
