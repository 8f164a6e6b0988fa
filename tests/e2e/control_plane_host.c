/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The agent's control plane without the rest of the agent, for test_control_plane.py. Options are those of
 * bruma-agent; pods come and go by lines on stdin:
 *
 *     pod UID NAMESPACE NAME true|false [ADDRESS]...
 *     gone UID
 *     ask NAMESPACE POD
 *     report
 *
 * The end of stdin ends the program. Each line is answered by a line of JSON; {"event": "changed"} comes by
 * itself.
 */
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent/agent_settings.h"
#include "agent/control_plane/mesh.h"
#include "lib/cleanup.h"
#include "lib/log.h"

struct host {
    struct loop *loop;
    struct loop_watch input;
    struct mesh *mesh;
    char line[4096];
    size_t len;
};

static void say(cJSON *object)
{
    _cleanup_free_ char *text = cJSON_PrintUnformatted(object);

    cJSON_Delete(object);
    puts(text ? text : "{}");
    fflush(stdout);
}

static void on_changed(void *data)
{
    cJSON *object = cJSON_CreateObject();

    cJSON_AddStringToObject(object, "event", "changed");
    say(object);
}

static void set_pod(struct host *host, char **words, int len, cJSON *answer)
{
    struct mesh_local_pod pod = {.uid = words[1], .namespace = words[2], .name = words[3]};

    pod.enrolled = !strcmp(words[4], "true");
    for (int i = 5; i < len && pod.addresses_len < BRUMA_POD_ADDRESSES; i++) {
        if (addr_parse(words[i], &pod.addresses[pod.addresses_len++]) < 0)
            cJSON_AddStringToObject(answer, "error", "address");
    }
    cJSON_AddNumberToObject(answer, "result", mesh_set_local_pod(host->mesh, &pod));
}

static void ask(struct host *host, char **words, cJSON *answer)
{
    char account[256];

    cJSON_AddBoolToObject(answer, "ready", mesh_ready(host->mesh));
    cJSON_AddBoolToObject(answer, "ambient", mesh_namespace_ambient(host->mesh, words[1]));
    cJSON_AddNumberToObject(answer, "mode", mesh_pod_mode(host->mesh, words[1], words[2]));
    if (mesh_service_account(host->mesh, words[1], words[2], account, sizeof(account)) == 0)
        cJSON_AddStringToObject(answer, "serviceAccount", account);
}

static void obey(struct host *host, char *line)
{
    cJSON *answer = cJSON_CreateObject();
    char *words[16], *save = NULL;
    int len = 0;

    for (char *w = strtok_r(line, " ", &save); w && len < 16; w = strtok_r(NULL, " ", &save))
        words[len++] = w;
    if (len >= 5 && !strcmp(words[0], "pod"))
        set_pod(host, words, len, answer);
    else if (len == 2 && !strcmp(words[0], "gone"))
        mesh_remove_local_pod(host->mesh, words[1]);
    else if (len == 3 && !strcmp(words[0], "ask"))
        ask(host, words, answer);
    else if (len == 1 && !strcmp(words[0], "report"))
        mesh_report(host->mesh, answer);
    else
        cJSON_AddStringToObject(answer, "error", "unknown line");
    say(answer);
}

static void on_input(struct loop_watch *watch, uint32_t events)
{
    struct host *host = container_of(watch, struct host, input);
    ssize_t n = read(STDIN_FILENO, host->line + host->len, sizeof(host->line) - 1 - host->len);
    char *end;

    if (n <= 0) {
        loop_stop(host->loop);
        return;
    }
    host->len += (size_t)n;
    host->line[host->len] = '\0';
    while ((end = strchr(host->line, '\n'))) {
        *end = '\0';
        obey(host, host->line);
        host->len -= (size_t)(end + 1 - host->line);
        memmove(host->line, end + 1, host->len + 1);
    }
}

int main(int argc, char **argv)
{
    struct agent_settings config;
    struct host host = {.len = 0};
    char error[256];
    int first, r;

    if (agent_settings_load(&config, argc, argv, &first, error, sizeof(error)) < 0) {
        fprintf(stderr, "%s\n", error);
        return 2;
    }
    if (!config.node)
        config.node = "node";
    signal(SIGPIPE, SIG_IGN);
    (void)log_set_filter(config.log_level);
    log_setup(STDERR_FILENO, false);
    r = loop_new(&host.loop);
    if (r == 0)
        r = mesh_new(host.loop, &config, on_changed, NULL, &host.mesh);
    if (r == 0)
        r = loop_watch_add(host.loop, &host.input, STDIN_FILENO, EPOLLIN, on_input);
    if (r == 0) {
        obey(&host, (char[]){"report"});
        r = loop_run(host.loop);
    }
    mesh_free(&host.mesh);
    loop_free(&host.loop);
    return r < 0 ? 1 : 0;
}
