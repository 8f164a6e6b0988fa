/* SPDX-License-Identifier: Apache-2.0 */
#include "ctl/kube/kubeconfig.h"

#include <fcntl.h>
#include <stdarg.h>
#include <string.h>

#include "ctl/kube/config_file.h"
#include "lib/cleanup.h"
#include "lib/file.h"

#define SERVICE_ACCOUNT "/var/run/secrets/kubernetes.io/serviceaccount"

/* ---- parts of a user ---- */

/* A file that it names, or the same in base64 behind NAME-data, which counts if both are there. */
static int read_pem(const struct config_part *part, const char *name, char **ret, char *error)
{
    _cleanup_free_ char *text = NULL;
    char data_name[64];
    int r;

    snprintf(data_name, sizeof(data_name), "%s-data", name);
    r = config_part_base64(part, data_name, &text, error);
    if (r == 0 && !text)
        r = config_part_file(part, name, &text, error);
    if (r == 0 && text && !strstr(text, "-----BEGIN "))
        return config_part_fail(part, error, "%s is not PEM", name);
    if (r == 0)
        *ret = take_pointer(text);
    return r;
}

static int read_strings(const struct config_part *part, const char *name, char **ret, size_t max, char *error)
{
    size_t n = 0;

    for (;; n++) {
        char *text = NULL;
        int r = config_part_item(part, name, n, &text, error);

        if (r < 0)
            return r;
        if (!text)
            return 0;
        if (n == max) {
            free(text);
            return config_part_fail(part, error, "%s has more than %zu entries", name, max);
        }
        ret[n] = text;
    }
}

static int read_variables(const struct config_part *exec, struct kube_exec *e, char *error)
{
    for (size_t n = 0;; n++) {
        _cleanup_free_ char *name = NULL, *value = NULL;
        struct config_part one;
        int r = config_part_at(exec, "env", n, &one, error);

        if (r < 0)
            return r;
        if (!one.node)
            return 0;
        if (n == KUBECONFIG_WORDS_MAX)
            return config_part_fail(exec, error, "env has more than %d entries", KUBECONFIG_WORDS_MAX);
        r = config_part_text(&one, "name", &name, error);
        if (r == 0)
            r = config_part_text(&one, "value", &value, error);
        if (r == 0 && (!name || !*name || strchr(name, '=')))
            r = config_part_fail(&one, error, "an entry of env has no name");
        if (r < 0)
            return r;
        if (asprintf(&e->variables[n], "%s=%s", name, value ? value : "") < 0) {
            e->variables[n] = NULL;
            return -ENOMEM;
        }
    }
}

/* A command with a slash is relative to the file, as for kubectl; another one is looked for in PATH. */
static int read_command(const struct config_part *exec, struct kube_exec *e, char *error)
{
    _cleanup_free_ char *command = NULL;
    int r = config_part_text(exec, "command", &command, error);

    if (r < 0)
        return r;
    if (!command || !*command)
        return config_part_fail(exec, error, "exec has no command");
    if (*command == '/' || !strchr(command, '/'))
        e->command = take_pointer(command);
    else if (asprintf(&e->command, "%s/%s", exec->file->directory, command) < 0)
        e->command = NULL;
    return e->command ? 0 : -ENOMEM;
}

static int read_interactive(const struct config_part *exec, struct kube_exec *e, char *error)
{
    static const char *const modes[] = {
        [KUBE_EXEC_IF_AVAILABLE] = "IfAvailable", [KUBE_EXEC_NEVER] = "Never", [KUBE_EXEC_ALWAYS] = "Always"};
    _cleanup_free_ char *mode = NULL;
    int r = config_part_text(exec, "interactiveMode", &mode, error);

    if (r < 0 || !mode)
        return r;
    for (unsigned i = 0; i < array_size(modes); i++) {
        if (!strcmp(mode, modes[i])) {
            e->interactive = i;
            return 0;
        }
    }
    return config_part_fail(exec, error, "interactiveMode is none of IfAvailable, Never and Always");
}

static int read_exec(const struct config_part *user, struct kube_access *a, char *error)
{
    struct config_part exec;
    int r = config_part_map(user, "exec", &exec, error);

    if (r < 0 || !exec.node)
        return r;
    a->exec = calloc(1, sizeof(*a->exec));
    if (!a->exec)
        return -ENOMEM;
    r = config_part_text(&exec, "apiVersion", &a->exec->api_version, error);
    if (r == 0 && (!a->exec->api_version ||
                   (strcmp(a->exec->api_version, "client.authentication.k8s.io/v1") != 0 &&
                    strcmp(a->exec->api_version, "client.authentication.k8s.io/v1beta1") != 0)))
        r = config_part_fail(&exec, error,
                             "apiVersion of exec must be client.authentication.k8s.io/v1 or v1beta1");
    if (r == 0)
        r = read_command(&exec, a->exec, error);
    if (r == 0)
        r = read_strings(&exec, "args", a->exec->arguments, KUBECONFIG_WORDS_MAX, error);
    if (r == 0)
        r = read_variables(&exec, a->exec, error);
    if (r == 0)
        r = config_part_text(&exec, "installHint", &a->exec->install_hint, error);
    if (r == 0)
        r = config_part_bool(&exec, "provideClusterInfo", &a->exec->provide_cluster, error);
    return r < 0 ? r : read_interactive(&exec, a->exec, error);
}

/* Of a file, if there is no token: without the newline at its end. */
static int read_token(const struct config_part *user, struct kube_access *a, char *error)
{
    int r = config_part_text(user, "token", &a->token, error);

    if (r == 0 && !a->token)
        r = config_part_file(user, "tokenFile", &a->token, error);
    if (r < 0 || !a->token)
        return r;
    a->token[strcspn(a->token, "\r\n")] = '\0';
    return *a->token ? 0 : config_part_fail(user, error, "the token is empty");
}

static int read_user(const struct config_part *user, struct kube_access *a, char *error)
{
    struct config_part provider;
    int r = read_pem(user, "client-certificate", &a->certificate, error);

    if (r == 0)
        r = read_pem(user, "client-key", &a->key, error);
    if (r == 0 && !a->certificate != !a->key)
        r = config_part_fail(user, error, "%s is given without %s",
                             a->key ? "client-key" : "client-certificate",
                             a->key ? "client-certificate" : "client-key");
    if (r == 0)
        r = read_token(user, a, error);
    if (r == 0)
        r = config_part_text(user, "username", &a->user, error);
    if (r == 0)
        r = config_part_text(user, "password", &a->password, error);
    if (r == 0)
        r = config_part_text(user, "as", &a->as_user, error);
    if (r == 0)
        r = config_part_text(user, "as-uid", &a->as_uid, error);
    if (r == 0)
        r = read_strings(user, "as-groups", a->as_groups, KUBECONFIG_GROUPS_MAX, error);
    if (r == 0)
        r = read_exec(user, a, error);
    if (r == 0)
        r = config_part_map(user, "auth-provider", &provider, error);
    if (r == 0 && provider.node)
        r = config_part_fail(user, error,
                             "auth-provider is not supported, nor is it by kubectl since 1.26: "
                             "use a credential plugin (exec)");
    return r;
}

/* ---- cluster and context ---- */

static int read_server(const struct config_part *cluster, struct kube_access *a, char *error)
{
    int r = config_part_text(cluster, "server", &a->server, error);

    if (r < 0)
        return r;
    if (!a->server || !*a->server)
        return config_part_fail(cluster, error, "the cluster has no server");
    if (strncmp(a->server, "https://", 8) != 0 || !a->server[8])
        return config_part_fail(cluster, error, "server \"%s\" is no https URL", a->server);
    if (strpbrk(a->server, " \t\r\n?#@"))
        return config_part_fail(cluster, error, "server \"%s\" is no plain URL", a->server);
    for (size_t n = strlen(a->server); a->server[n - 1] == '/' && n > 9; n--)
        a->server[n - 1] = '\0';
    return 0;
}

static int read_cluster(const struct config_part *cluster, struct kube_access *a, char *error)
{
    int r = read_server(cluster, a, error);

    if (r == 0)
        r = config_part_bool(cluster, "insecure-skip-tls-verify", &a->insecure, error);
    if (r == 0)
        r = read_pem(cluster, "certificate-authority", &a->ca, error);
    if (r == 0 && a->ca && a->insecure)
        r = config_part_fail(cluster, error,
                             "certificate-authority and insecure-skip-tls-verify exclude each other");
    if (r == 0)
        r = config_part_text(cluster, "tls-server-name", &a->tls_server_name, error);
    if (r == 0)
        r = config_part_text(cluster, "proxy-url", &a->proxy_url, error);
    return r;
}

static int read_context(const struct config_files *files, const char *name, struct kube_access *a,
                        char *error)
{
    _cleanup_free_ char *cluster_name = NULL, *user_name = NULL;
    struct config_part context, cluster, user;
    int r = config_find(files, "contexts", name, "context", &context, error);

    if (r == 0)
        r = config_part_text(&context, "cluster", &cluster_name, error);
    if (r == 0)
        r = config_part_text(&context, "user", &user_name, error);
    if (r == 0)
        r = config_part_text(&context, "namespace", &a->namespace, error);
    if (r == 0 && (!cluster_name || !*cluster_name))
        r = config_part_fail(&context, error, "context \"%s\" names no cluster", name);
    if (r == 0)
        r = config_find(files, "clusters", cluster_name, "cluster", &cluster, error);
    if (r == 0)
        r = read_cluster(&cluster, a, error);
    if (r < 0 || !user_name || !*user_name)
        return r;
    r = config_find(files, "users", user_name, "user", &user, error);
    return r == 0 ? read_user(&user, a, error) : r;
}

static int resolve(const struct config_files *files, const char *context, struct kube_access **ret,
                   char *error)
{
    struct kube_access *a = calloc(1, sizeof(*a));
    int r = a ? 0 : -ENOMEM;

    if (r == 0 && context)
        a->context = strdup(context);
    else if (r == 0)
        r = config_current(files, &a->context, error);
    if (r == 0 && !a->context)
        r = -ENOMEM;
    if (r == 0)
        r = read_context(files, a->context, a, error);
    if (r == 0)
        *ret = a;
    else
        kube_access_free(&a);
    if (r == -ENOMEM)
        snprintf(error, KUBECONFIG_ERROR_MAX, "out of memory");
    return r;
}

/* ---- from where ---- */

/* As client-go does it in a pod. */
static int in_pod(const char *host, struct kube_access **ret, char *error)
{
    const char *port = getenv("KUBERNETES_SERVICE_PORT");
    struct kube_access *a = calloc(1, sizeof(*a));
    size_t len;
    int r = a ? 0 : -ENOMEM;

    if (r == 0 && asprintf(&a->server, strchr(host, ':') ? "https://[%s]:%s" : "https://%s:%s", host,
                           port && *port ? port : "443") < 0) {
        a->server = NULL;
        r = -ENOMEM;
    }
    if (r == 0)
        r = file_read(AT_FDCWD, SERVICE_ACCOUNT "/token", 0, CONFIG_FILE_MAX, &a->token, &len);
    if (r == 0)
        r = file_read(AT_FDCWD, SERVICE_ACCOUNT "/ca.crt", 0, CONFIG_FILE_MAX, &a->ca, &len);
    if (r == 0 && !(a->context = strdup("")))
        r = -ENOMEM;
    if (r == 0) {
        *ret = a;
        return 0;
    }
    kube_access_free(&a);
    snprintf(error, KUBECONFIG_ERROR_MAX, "the service account in %s cannot be read: %s", SERVICE_ACCOUNT,
             strerror(-r));
    return r == -ENOMEM ? r : -EIO;
}

/* Address of the API server there; NULL: this is no pod that has a service account. */
static const char *host_in_pod(void)
{
    const char *host = getenv("KUBERNETES_SERVICE_HOST");

    return host && *host && access(SERVICE_ACCOUNT "/token", R_OK) == 0 ? host : NULL;
}

bool kubeconfig_is_there(const char *path)
{
    _cleanup_free_ char *list = config_paths(path);
    char *rest = list, *one;

    while (list && (one = strsep(&rest, ":")))
        if (*one && access(one, F_OK) == 0)
            return true;
    return !path && host_in_pod();
}

int kubeconfig_load(const char *path, const char *context, struct kube_access **ret,
                    char error[KUBECONFIG_ERROR_MAX])
{
    _cleanup_free_ char *list = config_paths(path);
    const char *host = host_in_pod();
    struct config_files files = {};
    int r;

    if (!list) {
        snprintf(error, KUBECONFIG_ERROR_MAX, "out of memory");
        return -ENOMEM;
    }
    r = config_files_read(&files, list, path != NULL, error);
    if (r == 0 && !files.len && host)
        r = in_pod(host, ret, error);
    else if (r == 0 && !files.len)
        r = (snprintf(error, KUBECONFIG_ERROR_MAX, "there is no kubeconfig (%s)", list), -ENOENT);
    else if (r == 0)
        r = resolve(&files, context, ret, error);
    config_files_close(&files);
    return r;
}

int kubeconfig_parse(const char *text, size_t len, const char *directory, const char *context,
                     struct kube_access **ret, char error[KUBECONFIG_ERROR_MAX])
{
    struct config_files files = {};
    int r = config_files_add(&files, text, len, "kubeconfig", directory, error);

    if (r == 0)
        r = resolve(&files, context, ret, error);
    config_files_close(&files);
    return r;
}

static void free_all(char **texts)
{
    for (; *texts; texts++)
        free(*texts);
}

/* What has been a secret is not left in memory that another allocation gets. */
static void free_secret(char *text)
{
    if (text)
        explicit_bzero(text, strlen(text));
    free(text);
}

void kube_access_stop(struct kube_access *access)
{
    __atomic_store_n(&access->stop, true, __ATOMIC_RELAXED);
}

bool kube_access_is_stopped(const struct kube_access *access)
{
    return __atomic_load_n(&access->stop, __ATOMIC_RELAXED);
}

void kube_access_free(struct kube_access **access)
{
    struct kube_access *a = *access;

    if (!a)
        return;
    *access = NULL;
    if (a->exec) {
        free(a->exec->api_version);
        free(a->exec->command);
        free(a->exec->install_hint);
        free_all(a->exec->arguments);
        free_all(a->exec->variables);
        free(a->exec);
    }
    free_all(a->as_groups);
    free(a->as_user);
    free(a->as_uid);
    free(a->context);
    free(a->server);
    free(a->namespace);
    free(a->tls_server_name);
    free(a->proxy_url);
    free(a->ca);
    free(a->certificate);
    free_secret(a->key);
    free_secret(a->token);
    free(a->user);
    free_secret(a->password);
    free(a);
}
