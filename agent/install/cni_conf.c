/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/install/cni_conf.h"

#include <cjson/cJSON.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "lib/cleanup.h"
#include "lib/json_slice.h"
#include "lib/message.h"

static const char *text_at(const cJSON *o, const char *key)
{
    return cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(o, key));
}

/* Runtimes read keys in any case, and the last of equal ones: two of them cannot be edited safely. */
static int count_plugins_keys(const cJSON *o)
{
    const cJSON *item;
    int n = 0;

    cJSON_ArrayForEach (item, o)
        n += item->string && !strcasecmp(item->string, "plugins");
    return n;
}

/* The parser takes any control character for white space, runtimes do not. */
static bool has_control_characters(const char *text, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        if ((unsigned char)text[i] < ' ' && !(text[i] && strchr("\t\r\n", text[i])))
            return true;
    }
    return false;
}

static cJSON *parse(const char *text, size_t len)
{
    const char *end = NULL;
    cJSON *o = has_control_characters(text, len) ? NULL : cJSON_ParseWithLengthOpts(text, len, &end, false);

    while (o && end < text + len && strchr(" \t\r\n", *end))
        end++;
    if (o && end == text + len)
        return o;
    cJSON_Delete(o);
    return NULL;
}

enum cni_conf_kind cni_conf_kind(const char *text, size_t len, char *why, size_t why_size)
{
    _cleanup_message_ cJSON *o = parse(text, len);
    const cJSON *plugins = cJSON_GetObjectItemCaseSensitive(o, "plugins"), *plugin;

    if (!cJSON_IsObject(o)) {
        snprintf(why, why_size, "not a JSON object");
        return CNI_CONF_BAD;
    }
    if (!count_plugins_keys(o)) {
        if (text_at(o, "type"))
            return CNI_CONF_SINGLE;
        snprintf(why, why_size, "neither a type nor plugins");
        return CNI_CONF_BAD;
    }
    if (count_plugins_keys(o) > 1 || !cJSON_IsArray(plugins) || !cJSON_GetArraySize(plugins)) {
        snprintf(why, why_size, "plugins is not a non-empty list");
        return CNI_CONF_BAD;
    }
    cJSON_ArrayForEach (plugin, plugins) {
        if (!text_at(plugin, "type")) {
            snprintf(why, why_size, "a plugin without a type");
            return CNI_CONF_BAD;
        }
    }
    return CNI_CONF_LIST;
}

/* ---- the list ---- */

struct element {
    const char *begin;
    size_t len;
    bool ours;
};

struct elements {
    struct element list[64];
    int len;
    bool too_many;
};

static bool is_ours(const char *begin, size_t len)
{
    _cleanup_message_ cJSON *o = cJSON_ParseWithLength(begin, len);
    const char *type = text_at(o, "type");

    return type && !strcmp(type, CNI_PLUGIN_TYPE);
}

static void take_element(void *data, const char *begin, size_t len)
{
    struct elements *e = data;

    if (e->len == (int)array_size(e->list))
        e->too_many = true;
    else
        e->list[e->len++] = (struct element){begin, len, is_ours(begin, len)};
}

static int find_elements(const char *text, size_t len, struct elements *ret, const char **ret_open)
{
    const char *plugins;
    char why[80];
    size_t n;

    memset(ret, 0, sizeof(*ret));
    if (cni_conf_kind(text, len, why, sizeof(why)) != CNI_CONF_LIST ||
        json_slice_find(text, len, "plugins", &plugins, &n) < 0)
        return -EBADMSG;
    json_slice_elements(plugins, n, take_element, ret);
    *ret_open = plugins;
    return ret->len && !ret->too_many ? 0 : -EBADMSG;
}

bool cni_conf_has(const char *text, size_t len, const char *entry)
{
    struct elements e;
    const char *open;
    int ours = 0;

    if (find_elements(text, len, &e, &open) < 0)
        return false;
    for (int i = 0; i < e.len; i++)
        ours += e.list[i].ours;
    return ours == 1 && e.list[e.len - 1].len == strlen(entry) &&
           !memcmp(e.list[e.len - 1].begin, entry, strlen(entry));
}

struct conf_text {
    char *data;
    size_t len;
};

static int put(struct conf_text *t, const char *data, size_t len)
{
    char *grown = realloc(t->data, t->len + len + 1);

    if (!grown)
        return -ENOMEM;
    memcpy(grown + t->len, data, len);
    t->data = grown;
    t->len += len;
    t->data[t->len] = '\0';
    return 0;
}

/* Takes out the last element of ours, from behind the one before it (comma, space and all), or, where it is
 * the first, up to the one behind it. 1, 0 if there is none, or an error. */
static int remove_one(const char *text, size_t len, char **ret, size_t *ret_len)
{
    const char *open, *begin, *end;
    struct conf_text out = {};
    struct elements e;
    int i, r = find_elements(text, len, &e, &open);

    if (r < 0)
        return r;
    for (i = e.len - 1; i >= 0 && !e.list[i].ours; i--)
        ;
    if (i < 0)
        return 0;
    if (e.len == 1)
        return -EBADMSG; /* nothing but ours: not a network */
    begin = i ? e.list[i - 1].begin + e.list[i - 1].len : e.list[0].begin;
    end = i ? e.list[i].begin + e.list[i].len : e.list[1].begin;
    r = put(&out, text, (size_t)(begin - text));
    if (r == 0)
        r = put(&out, end, (size_t)(text + len - end));
    if (r < 0) {
        free(out.data);
        return r;
    }
    *ret = out.data;
    *ret_len = out.len;
    return 1;
}

int cni_conf_remove(const char *text, size_t len, char **ret, size_t *ret_len)
{
    char *without = NULL, *next;
    int r;

    while ((r = remove_one(without ? without : text, len, &next, &len)) == 1) {
        free(without);
        without = next;
    }
    if (r < 0 || !without) {
        free(without);
        return r;
    }
    *ret = without;
    *ret_len = len;
    return 1;
}

int cni_conf_add(const char *text, size_t len, const char *entry, char **ret, size_t *ret_len)
{
    _cleanup_free_ char *without = NULL;
    const char *open, *space, *end;
    struct conf_text out = {};
    struct elements e;
    size_t n;
    int r = cni_conf_remove(text, len, &without, &n);

    if (r < 0)
        return r;
    if (r == 1) {
        text = without;
        len = n;
    }
    r = find_elements(text, len, &e, &open);
    if (r < 0)
        return r;
    if (e.len == (int)array_size(e.list))
        return -EBADMSG; /* full: ours could not be found again */
    /* Ours is set apart as the others are: by what stands before the last of them. */
    space = open + 1;
    if (e.len > 1)
        space = strchr(e.list[e.len - 2].begin + e.list[e.len - 2].len, ',') + 1;
    end = e.list[e.len - 1].begin + e.list[e.len - 1].len;
    r = put(&out, text, (size_t)(end - text));
    if (r == 0)
        r = put(&out, ",", 1);
    if (r == 0)
        r = put(&out, space, (size_t)(e.list[e.len - 1].begin - space));
    if (r == 0)
        r = put(&out, entry, strlen(entry));
    if (r == 0)
        r = put(&out, end, (size_t)(text + len - end));
    if (r < 0) {
        free(out.data);
        return r;
    }
    *ret = out.data;
    *ret_len = out.len;
    return 0;
}

int cni_conf_wrap(const char *text, size_t len, const char *entry, char **ret, size_t *ret_len)
{
    _cleanup_message_ cJSON *o = parse(text, len);
    const char *name = text_at(o, "name"), *version = text_at(o, "cniVersion");
    cJSON *list = cJSON_CreateObject();
    struct conf_text out = {};
    char *head;
    int r = -ENOMEM;

    cJSON_AddStringToObject(list, "cniVersion", version ? version : "0.3.1");
    cJSON_AddStringToObject(list, "name", name ? name : "k8s-pod-network");
    head = cJSON_PrintUnformatted(list);
    cJSON_Delete(list);
    if (head) {
        r = put(&out, head, strlen(head) - 1);
        if (r == 0)
            r = put(&out, ",\"plugins\":[\n", 13);
        if (r == 0)
            r = put(&out, text, len);
        if (r == 0)
            r = put(&out, ",\n", 2);
        if (r == 0)
            r = put(&out, entry, strlen(entry));
        if (r == 0)
            r = put(&out, "\n]}\n", 4);
        free(head);
    }
    if (r < 0) {
        free(out.data);
        return r;
    }
    *ret = out.data;
    *ret_len = out.len;
    return 0;
}

#define MADE_OF "made_of"

bool cni_conf_is_copy(const char *text, size_t len)
{
    _cleanup_message_ cJSON *o = parse(text, len);
    const cJSON *plugins = cJSON_GetObjectItemCaseSensitive(o, "plugins");
    const cJSON *last = cJSON_GetArrayItem(plugins, cJSON_GetArraySize(plugins) - 1);
    const char *type = text_at(last, "type");

    return type && !strcmp(type, CNI_PLUGIN_TYPE) && text_at(last, MADE_OF);
}

char *cni_conf_copy_entry(const char *entry, const char *made_of)
{
    _cleanup_message_ cJSON *o = cJSON_Parse(entry);

    return o && cJSON_AddStringToObject(o, MADE_OF, made_of) ? cJSON_PrintUnformatted(o) : NULL;
}
