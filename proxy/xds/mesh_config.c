/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/xds/mesh_config.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <yaml.h>

#include "lib/cleanup.h"
#include "lib/yaml_node.h"

#define META "ISTIO_META_"

struct config_source {
    yaml_document_t document;
    const char *origin;
    char *error;
    size_t error_size;
};

static int fail(const struct config_source *s, size_t line, const char *what)
{
    snprintf(s->error, s->error_size, "%s:%zu: %s", s->origin, line + 1, what);
    return -EBADMSG;
}

static int take_text(struct config_source *s, const yaml_node_t *map, const char *name, char **field)
{
    const yaml_node_t *value = yaml_node_member(&s->document, map, name, NULL);
    const char *text = yaml_node_text(value);
    char *copy;

    if (yaml_node_is_nothing(value))
        return 0;
    if (!text)
        return fail(s, value->start_mark.line, "a single value is expected");
    copy = strdup(text);
    if (!copy)
        return -ENOMEM;
    free(*field);
    *field = copy;
    return 0;
}

static int take_metadata(struct config_source *s, const yaml_node_t *map, cJSON *metadata)
{
    const yaml_node_t *all = yaml_node_member(&s->document, map, "proxyMetadata", NULL);

    if (yaml_node_is_nothing(all))
        return 0;
    if (all->type != YAML_MAPPING_NODE)
        return fail(s, all->start_mark.line, "proxyMetadata is not a map");
    for (yaml_node_pair_t *p = all->data.mapping.pairs.start; p < all->data.mapping.pairs.top; p++) {
        const char *key = yaml_node_text(yaml_document_get_node(&s->document, p->key));
        const char *value = yaml_node_text(yaml_document_get_node(&s->document, p->value));

        if (!key || !value)
            return fail(s, all->start_mark.line, "proxyMetadata has a value that is not a string");
        if (!strncmp(key, META, strlen(META)))
            key += strlen(META);
        cJSON_DeleteItemFromObjectCaseSensitive(metadata, key);
        if (!cJSON_AddStringToObject(metadata, key, value))
            return -ENOMEM;
    }
    return 0;
}

/* trustDomainAliases, at the top of the file; trustDomain is one of those that are one with it. */
static int take_aliases(struct config_source *s, const yaml_node_t *map, struct mesh_config *config)
{
    const yaml_node_t *all = yaml_node_member(&s->document, map, "trustDomainAliases", NULL);
    const char *own = yaml_node_text(yaml_node_member(&s->document, map, "trustDomain", NULL));
    _cleanup_free_ char *list = NULL;
    size_t len = 0;
    FILE *out;

    if (yaml_node_is_nothing(all))
        return 0;
    if (all->type != YAML_SEQUENCE_NODE)
        return fail(s, all->start_mark.line, "trustDomainAliases is not a list");
    out = open_memstream(&list, &len);
    if (!out)
        return -ENOMEM;
    for (yaml_node_item_t *i = all->data.sequence.items.start; i < all->data.sequence.items.top; i++) {
        const char *name = yaml_node_text(yaml_document_get_node(&s->document, *i));

        if (!name || strchr(name, ',')) {
            fclose(out);
            return fail(s, all->start_mark.line, "trustDomainAliases has a value that is not a name");
        }
        fprintf(out, "%s,", name);
    }
    fputs(own && all->data.sequence.items.start < all->data.sequence.items.top ? own : "", out);
    if (fclose(out) != 0)
        return -ENOMEM;
    config->trust_domain_aliases = list;
    list = NULL;
    return 0;
}

/* The fields of ProxyConfig; what was there before gives way. */
static int take(struct config_source *s, const yaml_node_t *map, struct mesh_config *config)
{
    int r = take_text(s, map, "discoveryAddress", &config->discovery_address);

    if (r == 0)
        r = take_text(s, map, "proxyAdminPort", &config->admin_port);
    if (r == 0)
        r = take_text(s, map, "statsPort", &config->stats_port);
    if (r == 0)
        r = take_text(s, map, "concurrency", &config->concurrency);
    return r < 0 ? r : take_metadata(s, map, config->metadata);
}

/* whole: a mesh configuration, which has a ProxyConfig as its defaultConfig; else the text is one. */
static int parse(const char *origin, const char *text, size_t len, bool whole, struct mesh_config *config,
                 char *error, size_t error_size)
{
    struct config_source s = {.origin = origin, .error = error, .error_size = error_size};
    const yaml_node_t *root;
    yaml_parser_t parser;
    int r = 0;

    if (!yaml_parser_initialize(&parser))
        return -ENOMEM;
    yaml_parser_set_input_string(&parser, (const unsigned char *)text, len);
    if (!yaml_parser_load(&parser, &s.document)) {
        snprintf(error, error_size, "%s:%zu: not YAML: %s", origin, parser.problem_mark.line + 1,
                 parser.problem ? parser.problem : "unreadable");
        yaml_parser_delete(&parser);
        return -EBADMSG;
    }
    root = yaml_document_get_root_node(&s.document);
    if (whole && root && root->type == YAML_MAPPING_NODE) {
        r = take_aliases(&s, root, config);
        root = yaml_node_member(&s.document, root, "defaultConfig", NULL);
    }
    if (r == 0 && !yaml_node_is_nothing(root))
        r = root->type == YAML_MAPPING_NODE ? take(&s, root, config)
                                            : fail(&s, root->start_mark.line, "a map is expected");
    yaml_document_delete(&s.document);
    yaml_parser_delete(&parser);
    return r;
}

static int take_policy(const char *path, const char *text, size_t len, struct mesh_config *config,
                       char *error, size_t error_size)
{
    char why[200] = "";
    int r = outbound_policy_of_mesh(text, len, &config->outbound_policy, why, sizeof(why));

    if (r < 0)
        snprintf(error, error_size, "%s: %s", path, why);
    return r;
}

static int load_file(const char *path, struct mesh_config *config, char *error, size_t error_size)
{
    FILE *f = fopen(path, "re");
    _cleanup_free_ char *text = NULL;
    size_t len;
    int r = 0;

    if (!f && errno == ENOENT)
        return 0;
    if (!f) {
        r = -errno;
        snprintf(error, error_size, "%s: %s", path, strerror(-r));
        return r;
    }
    text = malloc(MESH_CONFIG_MAX + 1);
    len = text ? fread(text, 1, MESH_CONFIG_MAX + 1, f) : 0;
    if (!text || ferror(f))
        r = text ? -EIO : -ENOMEM;
    else if (len > MESH_CONFIG_MAX)
        r = -EFBIG;
    fclose(f);
    if (r < 0) {
        snprintf(error, error_size, "%s: %s", path, strerror(-r));
        return r;
    }
    r = parse(path, text, len, true, config, error, error_size);
    return r < 0 ? r : take_policy(path, text, len, config, error, error_size);
}

int mesh_config_load(const char *file, const char *proxy_config, struct mesh_config *ret, char *error,
                     size_t error_size)
{
    struct mesh_config config = {.metadata = cJSON_CreateObject()};
    int r = config.metadata ? load_file(file, &config, error, error_size) : -ENOMEM;

    if (r == 0 && proxy_config)
        r = parse("PROXY_CONFIG", proxy_config, strlen(proxy_config), false, &config, error, error_size);
    if (r < 0) {
        if (r == -ENOMEM)
            snprintf(error, error_size, "out of memory");
        mesh_config_free(&config);
        return r;
    }
    *ret = config;
    return 0;
}

void mesh_config_free(struct mesh_config *config)
{
    free(config->discovery_address);
    free(config->admin_port);
    free(config->stats_port);
    free(config->concurrency);
    free(config->trust_domain_aliases);
    cJSON_Delete(config->metadata);
    memset(config, 0, sizeof(*config));
}
