/* SPDX-License-Identifier: Apache-2.0 */
/*
 * bruma-cni: a chained CNI plugin. It changes nothing about the pod's network; it asks the agent whether the
 * pod is in the mesh, and if so attaches the pod's program. stdout carries the result or one error object,
 * nothing else.
 */
#define LOG_SCOPE "cni"
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cni/agent_client.h"
#include "cni/decisions.h"
#include "cni/request.h"
#include "lib/cleanup.h"
#include "lib/log.h"

#define STDIN_MAX        (4 * 1024 * 1024)
#define EXCLUDED_TIMEOUT 1.0 /* seconds */

static const char *const supported[] = {CNI_VERSIONS};

static int print_error(const char *version, const struct cni_error *error)
{
    json_t *o = json_object();
    char *text;

    json_object_set_new(o, "cniVersion", json_string(version));
    json_object_set_new(o, "code", json_integer(error->code));
    json_object_set_new(o, "msg", json_string(error->message));
    if (*error->details)
        json_object_set_new(o, "details", json_string(error->details));
    text = json_dumps(o, JSON_COMPACT);
    puts(text ? text : "{\"cniVersion\":\"1.1.0\",\"code\":5,\"msg\":\"out of memory\"}");
    free(text);
    json_decref(o);
    return 1;
}

static int print_versions(void)
{
    printf("{\"cniVersion\":\"%s\",\"supportedVersions\":[", CNI_LATEST);
    for (size_t i = 0; i < array_size(supported); i++)
        printf("%s\"%s\"", i ? "," : "", supported[i]);
    puts("]}");
    return 0;
}

/* What came is what goes on. First in a chain there is nothing yet. */
static void print_result(const struct cni_request *q)
{
    if (q->previous)
        printf("%.*s\n", (int)q->previous_len, q->previous);
    else
        printf("{\"cniVersion\":\"%s\"}\n", q->version);
}

static int read_stdin(char **ret, size_t *ret_len, struct cni_error *error)
{
    _cleanup_free_ char *text = NULL;
    size_t len = 0, size = 0;

    for (;;) {
        ssize_t n;

        if (len + 1 >= size) {
            char *grown;

            size = size ? size * 2 : 16384;
            grown = size > STDIN_MAX ? NULL : realloc(text, size);
            if (!grown) {
                error->code = CNI_DECODE_FAILURE;
                snprintf(error->message, sizeof(error->message),
                         "the network configuration is longer than %d bytes", STDIN_MAX);
                return -EFBIG;
            }
            text = grown;
        }
        n = read(STDIN_FILENO, text + len, size - len - 1);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0) {
            error->code = CNI_IO_FAILURE;
            snprintf(error->message, sizeof(error->message), "cannot read stdin: %s", strerror(errno));
            return -errno;
        }
        if (n == 0)
            break;
        len += (size_t)n;
    }
    text[len] = '\0';
    *ret = take_pointer(text);
    *ret_len = len;
    return 0;
}

static bool is_pod(const struct cni_request *q)
{
    return q->pod_name && *q->pod_name && q->pod_namespace && *q->pod_namespace;
}

/* A pod of Kubernetes that the configuration does not leave alone. */
static bool concerns_us(const struct cni_request *q)
{
    return is_pod(q) && !cni_request_excluded(q);
}

/* One that it leaves alone starts in any case. An agent that is there knows then that it belongs outside. */
static void inform_agent(const struct cni_request *q)
{
    struct cni_request quick = *q;
    struct cni_error error = {};

    if (quick.timeout_seconds > EXCLUDED_TIMEOUT)
        quick.timeout_seconds = EXCLUDED_TIMEOUT;
    if (agent_add(&quick, &error) < 0)
        log_debug("a pod of an excluded namespace could not be reported to the agent\terror=\"%s\"",
                  error.message);
}

static int run(const struct cni_request *q, struct cni_error *error)
{
    int r = 0;

    switch (q->command) {
    case CNI_ADD:
        if (concerns_us(q)) {
            r = agent_add(q, error);
            if (r < 0 && error->unreachable && decisions_outside(q))
                r = 0;
        } else if (is_pod(q))
            inform_agent(q);
        break;
    case CNI_DEL:
        /* An error would keep the main plugin from releasing the address. What is left behind the agent finds
         * by itself. */
        if (agent_del(q, error) < 0)
            log_warn("%s", error->message);
        break;
    case CNI_CHECK:
        if (concerns_us(q))
            r = agent_check(q, error);
        break;
    case CNI_GC:
        r = agent_gc(q, error);
        break;
    case CNI_STATUS:
        if (q->status_gate && agent_status(q, error) < 0) {
            error->code = CNI_NOT_AVAILABLE;
            r = -EAGAIN;
        }
        break;
    case CNI_VERSION:
        break;
    }
    return r;
}

int main(int argc, char **argv)
{
    struct cni_request request = {};
    struct cni_error error = {};
    const char *command = getenv("CNI_COMMAND");
    char version[16] = CNI_LATEST, *text = NULL;
    size_t len = 0;
    int r;

    (void)argc;
    signal(SIGPIPE, SIG_IGN);
    log_setup(STDERR_FILENO, false);
    if (!command) {
        fprintf(stderr, "%s: bruma-cni %s, a CNI chain plugin; CNI versions 0.1.0 to " CNI_LATEST "\n",
                argv[0], BRUMA_VERSION);
        return 0;
    }
    if (!strcmp(command, "VERSION"))
        return print_versions();
    r = read_stdin(&text, &len, &error);
    if (r == 0)
        r = cni_request_parse(text, len, &request, &error);
    if (r < 0)
        return print_error(version, &error);
    snprintf(version, sizeof(version), "%s", request.version);
    if (log_set_filter(request.log_level) < 0)
        log_warn("log_level \"%s\" is not a level", request.log_level);
    r = run(&request, &error);
    if (r == 0 && request.command == CNI_ADD)
        print_result(&request);
    cni_request_clear(&request);
    return r < 0 ? print_error(version, &error) : 0;
}
