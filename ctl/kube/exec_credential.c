/* SPDX-License-Identifier: Apache-2.0 */
#include "ctl/kube/exec_credential.h"

#include <cjson/cJSON.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <sys/wait.h>

#include "ctl/kube/base64.h"
#include "lib/cleanup.h"

#define ANSWER_MAX (1u << 20) /* bytes */

static int fail(char *error, int r, const struct kube_access *a, const char *what)
{
    snprintf(error, KUBECONFIG_ERROR_MAX, "credential plugin %.200s: %s%s%.200s", a->exec->command, what,
             a->exec->install_hint ? "\n" : "", a->exec->install_hint ? a->exec->install_hint : "");
    return r;
}

/* ---- what it says ---- */

static char *copy_of(const cJSON *object, const char *key)
{
    const char *text = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(object, key));

    return text && *text ? strdup(text) : NULL;
}

static int take_status(struct kube_access *a, const cJSON *status, char *error)
{
    _cleanup_free_ char *token = copy_of(status, "token"), *key = copy_of(status, "clientKeyData"),
                        *certificate = copy_of(status, "clientCertificateData");

    if (!token && !certificate)
        return fail(error, -EINVAL, a, "it gives neither token nor client certificate");
    if (!certificate != !key)
        return fail(error, -EINVAL, a,
                    "it gives a certificate without a key, or a key without a certificate");
    if (token && strpbrk(token, "\r\n"))
        return fail(error, -EINVAL, a, "its token has several lines");
    if (token) {
        free(a->token);
        a->token = take_pointer(token);
    }
    if (certificate) {
        free(a->certificate);
        free(a->key);
        a->certificate = take_pointer(certificate);
        a->key = take_pointer(key);
    }
    return 0;
}

int exec_credential_take(struct kube_access *a, const char *text, size_t len,
                         char error[KUBECONFIG_ERROR_MAX])
{
    cJSON *json = cJSON_ParseWithLength(text, len);
    const char *kind = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(json, "kind"));
    const char *version = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(json, "apiVersion"));
    int r;

    if (!json)
        r = fail(error, -EINVAL, a, "what it prints is not JSON");
    else if (!kind || strcmp(kind, "ExecCredential") != 0)
        r = fail(error, -EINVAL, a, "what it prints is no ExecCredential");
    else if (!version || strcmp(version, a->exec->api_version) != 0)
        r = fail(error, -EINVAL, a, "it answers in another apiVersion than the kubeconfig names");
    else
        r = take_status(a, cJSON_GetObjectItemCaseSensitive(json, "status"), error);
    cJSON_Delete(json);
    return r;
}

/* ---- how it is asked ---- */

static void add_cluster(cJSON *spec, const struct kube_access *a)
{
    cJSON *cluster = cJSON_AddObjectToObject(spec, "cluster");
    size_t len = a->ca ? strlen(a->ca) : 0;
    _cleanup_free_ char *ca = malloc(4 * ((len + 2) / 3) + 1);

    cJSON_AddStringToObject(cluster, "server", a->server);
    if (a->tls_server_name)
        cJSON_AddStringToObject(cluster, "tls-server-name", a->tls_server_name);
    if (a->insecure)
        cJSON_AddTrueToObject(cluster, "insecure-skip-tls-verify");
    if (a->proxy_url)
        cJSON_AddStringToObject(cluster, "proxy-url", a->proxy_url);
    if (a->ca && ca) {
        base64_encode((const unsigned char *)a->ca, len, ca);
        cJSON_AddStringToObject(cluster, "certificate-authority-data", ca);
    }
}

/* The text of KUBERNETES_EXEC_INFO, or NULL. */
static char *info_of(const struct kube_access *a, bool interactive)
{
    cJSON *info = cJSON_CreateObject(), *spec;
    char *text;

    cJSON_AddStringToObject(info, "apiVersion", a->exec->api_version);
    cJSON_AddStringToObject(info, "kind", "ExecCredential");
    spec = cJSON_AddObjectToObject(info, "spec");
    cJSON_AddBoolToObject(spec, "interactive", interactive);
    if (a->exec->provide_cluster)
        add_cluster(spec, a);
    text = cJSON_PrintUnformatted(info);
    cJSON_Delete(info);
    return text;
}

/* In the child: does not return. */
static void run_plugin(const struct kube_exec *e, const char *info, bool interactive, int out)
{
    const char *argv[KUBECONFIG_WORDS_MAX + 2] = {e->command};
    int null = interactive ? -1 : open("/dev/null", O_RDONLY | O_CLOEXEC);
    sigset_t none;

    /* What is ignored or blocked stays so in a program that is run. */
    (void)signal(SIGPIPE, SIG_DFL);
    sigemptyset(&none);
    (void)sigprocmask(SIG_SETMASK, &none, NULL);
    for (size_t i = 0; e->arguments[i]; i++)
        argv[i + 1] = e->arguments[i];
    for (size_t i = 0; e->variables[i]; i++)
        (void)putenv(e->variables[i]);
    if (setenv("KUBERNETES_EXEC_INFO", info, 1) == 0 && dup2(out, STDOUT_FILENO) >= 0 &&
        (interactive || dup2(null, STDIN_FILENO) >= 0))
        (void)execvp(e->command, (char *const *)(uintptr_t)argv);
    _exit(errno == ENOENT ? 127 : 126);
}

/* Until its end; more than ANSWER_MAX is not kept. */
static ssize_t read_all(int fd, char *buf, size_t size)
{
    size_t len = 0;
    char rest[4096];

    for (;;) {
        bool full = len == size;
        ssize_t n = read(fd, full ? rest : buf + len, full ? sizeof(rest) : size - len);

        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return n < 0 ? -errno : (ssize_t)len;
        if (!full)
            len += (size_t)n;
    }
}

static int ended(const struct kube_access *a, pid_t pid, char *error)
{
    char text[64];
    int status;

    while (waitpid(pid, &status, 0) < 0) {
        if (errno != EINTR)
            return fail(error, -EIO, a, strerror(errno));
    }
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
        return 0;
    if (WIFEXITED(status) && WEXITSTATUS(status) == 127)
        return fail(error, -ENOENT, a, "there is no such program");
    snprintf(text, sizeof(text), WIFEXITED(status) ? "exit code %d" : "ended by signal %d",
             WIFEXITED(status) ? WEXITSTATUS(status) : WTERMSIG(status));
    return fail(error, -EIO, a, text);
}

static int run(struct kube_access *a, const char *info, bool interactive, char *error)
{
    _cleanup_free_ char *answer = malloc(ANSWER_MAX);
    int fds[2], r;
    ssize_t n;
    pid_t pid;

    if (!answer || pipe2(fds, O_CLOEXEC) < 0)
        return fail(error, -ENOMEM, a, "out of memory or descriptors");
    pid = fork();
    if (pid == 0)
        run_plugin(a->exec, info, interactive, fds[1]);
    close(fds[1]);
    if (pid < 0) {
        close(fds[0]);
        return fail(error, -EIO, a, strerror(errno));
    }
    n = read_all(fds[0], answer, ANSWER_MAX);
    close(fds[0]);
    r = ended(a, pid, error);
    if (r == 0 && n < 0)
        r = fail(error, -EIO, a, strerror((int)-n));
    return r == 0 ? exec_credential_take(a, answer, (size_t)n, error) : r;
}

int exec_credential_get(struct kube_access *a, char error[KUBECONFIG_ERROR_MAX])
{
    _cleanup_free_ char *info = NULL;
    bool terminal = isatty(STDIN_FILENO), interactive;

    if (!a->exec)
        return 0;
    interactive = a->exec->interactive != KUBE_EXEC_NEVER && terminal;
    if (a->exec->interactive == KUBE_EXEC_ALWAYS && !terminal)
        return fail(error, -EIO, a, "it needs a terminal (interactiveMode: Always)");
    info = info_of(a, interactive);
    return info ? run(a, info, interactive, error) : fail(error, -ENOMEM, a, "out of memory");
}
