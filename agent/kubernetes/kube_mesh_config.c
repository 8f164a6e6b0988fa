/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/kubernetes/kube_mesh_config.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "lib/reasons.h"

#define LOG_SCOPE "kube"
#include "lib/log.h"

#define KEY "mesh"

static void set_policy(struct kube_mesh_config *c, enum outbound_policy policy)
{
    bool changed = policy != c->policy;

    c->policy = policy;
    if (!changed)
        return;
    log_info("outbound traffic policy of the mesh\tpolicy=%s",
             policy == OUTBOUND_UNSAID ? "-" : outbound_policy_name(policy));
    c->changed(c->data);
}

/* The last good one counts for as long as a newer one is wrong. Before there was one, it could be any: the
 * strict one is the one that can be undone. */
static void refuse(struct kube_mesh_config *c, const char *why)
{
    log_error("the mesh configuration cannot be used; the last good one stays in force\treason=%s "
              "configmap=%s error=\"%s\"",
              reason_name(BRUMA_REASON_MESH_CONFIG_INVALID), c->selector, why);
    snprintf(c->error, sizeof(c->error), "%s", why);
    if (!c->good)
        set_policy(c, OUTBOUND_REGISTRY_ONLY);
}

static void take(struct kube_mesh_config *c, enum outbound_policy policy)
{
    c->good = true;
    c->error[0] = '\0';
    set_policy(c, policy);
}

static void on_object(void *data, const cJSON *object, bool deleted)
{
    struct kube_mesh_config *c = data;
    const cJSON *text = cJSON_GetObjectItemCaseSensitive(object, "data");
    enum outbound_policy policy = OUTBOUND_UNSAID;
    char why[200] = "the key " KEY " is not text";
    int r = 0;

    c->listed = true;
    text = cJSON_GetObjectItemCaseSensitive(text, KEY);
    if (!deleted && text)
        r = cJSON_IsString(text) ? outbound_policy_of_mesh(text->valuestring, strlen(text->valuestring),
                                                           &policy, why, sizeof(why))
                                 : -EBADMSG;
    if (r < 0)
        refuse(c, r == -ENOMEM ? strerror(ENOMEM) : why);
    else
        take(c, policy);
}

static void on_list_begins(void *data)
{
    ((struct kube_mesh_config *)data)->listed = false;
}

static void on_list_complete(void *data)
{
    struct kube_mesh_config *c = data;

    if (!c->listed)
        take(c, OUTBOUND_UNSAID);
    c->changed(c->data); /* it is synced now, which others wait for */
}

static bool is_name(const char *text, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        if (!isalnum((unsigned char)text[i]) && text[i] != '-' && text[i] != '.')
            return false;
    }
    return len > 0 && len < 254;
}

int kube_mesh_config_open(struct kube_mesh_config *c, struct loop *loop, struct kube_client *client,
                          const char *name, const char *system_namespace, void (*changed)(void *data),
                          void *data)
{
    const struct kube_watch_config config = {
        .what = "mesh configuration", .path = c->path, .selector = c->selector, .page = 1};
    const struct kube_watch_events events = {
        .list_begins = on_list_begins, .object = on_object, .list_complete = on_list_complete, .data = c};
    const char *slash = strchr(name, '/'), *namespace = slash ? name : system_namespace;
    size_t len = slash ? (size_t)(slash - name) : strlen(system_namespace);

    *c = (struct kube_mesh_config){.changed = changed, .data = data};
    if (!*name)
        return 0;
    if (slash)
        name = slash + 1;
    if (!is_name(name, strlen(name)) || !is_name(namespace, len))
        return -EINVAL;
    snprintf(c->path, sizeof(c->path), "/api/v1/namespaces/%.*s/configmaps", (int)len, namespace);
    snprintf(c->selector, sizeof(c->selector), "metadata.name=%s", name);
    return kube_watch_new(loop, client, &config, &events, &c->watch);
}

void kube_mesh_config_close(struct kube_mesh_config *c)
{
    kube_watch_free(&c->watch);
}

bool kube_mesh_config_synced(const struct kube_mesh_config *c)
{
    return !c->watch || kube_watch_report(c->watch)->synced;
}
