/* SPDX-License-Identifier: Apache-2.0 */
#define LOG_SCOPE "cni"
#include "cni/decisions.h"

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "bruma/protocol.h"
#include "lib/log.h"

#define CLOCK_SLACK 300 /* seconds by which the clock may have been set back */

static const char *text_of(const json_t *object, const char *key)
{
    const char *text = json_string_value(json_object_get(object, key));

    return text ? text : "";
}

/* Only root's word counts. */
static json_t *load(const char *run_dir)
{
    char path[256];
    struct stat st;
    json_error_t where;
    json_t *file;

    if (snprintf(path, sizeof(path), "%s/%s", run_dir, BRUMA_DECISIONS) >= (int)sizeof(path) ||
        lstat(path, &st) < 0 || !S_ISREG(st.st_mode) || st.st_uid != 0 || (st.st_mode & 022))
        return NULL;
    file = json_load_file(path, 0, &where);
    if (!file)
        log_warn("decisions cannot be read\tpath=%s error=\"%s\"", path, where.text);
    return file;
}

static bool fresh(const json_t *file)
{
    json_int_t age = (json_int_t)time(NULL) - json_integer_value(json_object_get(file, "writtenAt"));

    return age >= -CLOCK_SLACK && age <= json_integer_value(json_object_get(file, "validSeconds"));
}

static bool is_outside(const json_t *file, const struct cni_request *q)
{
    const char *mode = text_of(file, "withoutAgent"), *pod, *namespace;

    if (strcmp(mode, BRUMA_WITHOUT_AGENT_KNOWN) != 0 && strcmp(mode, BRUMA_WITHOUT_AGENT_NAMESPACES) != 0)
        return false;
    /* A word about this very pod counts before one about its namespace. */
    pod = text_of(json_object_get(file, "pods"), q->pod_uid);
    if (*pod)
        return !strcmp(pod, BRUMA_OUTSIDE_ALWAYS);
    namespace = text_of(json_object_get(file, "namespaces"), q->pod_namespace);
    return !strcmp(namespace, BRUMA_OUTSIDE_ALWAYS) ||
           (!strcmp(namespace, BRUMA_OUTSIDE_UNLABELLED) && !strcmp(mode, BRUMA_WITHOUT_AGENT_NAMESPACES));
}

bool decisions_outside(const struct cni_request *q)
{
    json_t *file = load(q->run_dir);
    bool outside = file && fresh(file) && is_outside(file, q);

    if (outside)
        log_warn(
            "no agent answers; a pod starts that the last one knew to be outside the mesh\tpod=\"%s/%s\" "
            "revision=%lld",
            q->pod_namespace, q->pod_name, (long long)json_integer_value(json_object_get(file, "revision")));
    json_decref(file);
    return outside;
}
