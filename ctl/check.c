/* SPDX-License-Identifier: Apache-2.0 */
/* Before an install what a machine needs; after it whether all nodes are as they should be. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "ctl/check_node.h"
#include "ctl/check_pages.h"
#include "ctl/gather.h"
#include "ctl/say.h"
#include "ctl/source.h"
#include "ctl/table.h"
#include "lib/cleanup.h"

#define CLOCK_DIFFERENCE_MAX \
    10.0                        /* seconds between two nodes: more makes new certificates invalid elsewhere */
#define FINDINGS_MAX (1u << 20) /* bytes that the agent's program prints */
#define AGENT        "bruma-agent"

static const cJSON *get(const cJSON *object, const char *key)
{
    return cJSON_GetObjectItemCaseSensitive(object, key);
}

/* ---- output ---- */

/* Each with its page and its node ("": none). Returns whether all are good. */
static bool finish(cJSON *lines, const char *node)
{
    cJSON *line;
    bool good = true;

    cJSON_ArrayForEach (line, lines) {
        bool ok = cJSON_IsTrue(get(line, "ok"));

        if (*node)
            cJSON_AddStringToObject(line, "node", node);
        if (!ok)
            cJSON_AddStringToObject(line, "page", check_page(text_of(line, "check")));
        good = good && ok;
    }
    return good;
}

static void print_lines(const char *title, const cJSON *lines)
{
    const cJSON *line;

    printf("%s\n", title);
    cJSON_ArrayForEach (line, lines) {
        bool ok = cJSON_IsTrue(get(line, "ok"));

        printf("  %-4s  %s: %s\n", ok ? "ok" : "BAD", text_of(line, "check"), text_of(line, "detail"));
        if (!ok && *text_of(line, "reason"))
            printf("        reason: %s\n", text_of(line, "reason"));
        if (!ok && *text_of(line, "advice"))
            printf("        check: %s\n", text_of(line, "advice"));
        if (!ok)
            printf("        see: %s\n", text_of(line, "page"));
    }
}

/* Takes the lines. */
static bool put(const struct ctl_options *o, const char *title, const char *node, cJSON *lines, cJSON *all)
{
    bool good = finish(lines, node);

    if (!o->json)
        print_lines(title, lines);
    while (lines && lines->child)
        cJSON_AddItemToArray(all, cJSON_DetachItemViaPointer(lines, lines->child));
    cJSON_Delete(lines);
    return good;
}

/* ---- before ---- */

/* The program beside this one, or in the PATH. */
static void find_agent(char path[PATH_MAX])
{
    ssize_t n = readlink("/proc/self/exe", path, PATH_MAX - 1);
    char *slash;

    path[n > 0 ? n : 0] = '\0';
    slash = strrchr(path, '/');
    if (slash && (size_t)(slash - path) + sizeof("/" AGENT) <= PATH_MAX) {
        strcpy(slash, "/" AGENT);
        if (access(path, X_OK) == 0)
            return;
    }
    strcpy(path, AGENT);
}

/* The child: does not return. */
static void run_agent(const char *path, int argc, char **argv, int out)
{
    char **arguments = calloc((size_t)argc + 3, sizeof(*arguments));
    static char check[] = "--check", name[] = AGENT;

    if (arguments && dup2(out, STDOUT_FILENO) >= 0) {
        arguments[0] = name;
        arguments[1] = check;
        for (int i = 0; i < argc; i++)
            arguments[i + 2] = argv[i];
        (void)execvp(path, arguments);
        fprintf(stderr, "brumactl: %s cannot be run: %s\n", path, strerror(errno));
    }
    _exit(127);
}

/* What it prints; 0 or -errno. */
static int agent_says(int argc, char **argv, char **ret, size_t *ret_len)
{
    _cleanup_free_ char *text = malloc(FINDINGS_MAX);
    char path[PATH_MAX];
    size_t len = 0;
    int fds[2], status = 0;
    ssize_t n = -1;
    pid_t pid;

    find_agent(path);
    if (!text || pipe2(fds, O_CLOEXEC) < 0)
        return text ? -errno : -ENOMEM;
    pid = fork();
    if (pid == 0)
        run_agent(path, argc, argv, fds[1]);
    close(fds[1]);
    while (pid > 0 && len < FINDINGS_MAX && (n = read(fds[0], text + len, FINDINGS_MAX - len)) > 0)
        len += (size_t)n;
    close(fds[0]);
    if (pid < 0 || waitpid(pid, &status, 0) < 0)
        return -errno;
    *ret_len = len;
    *ret = take_pointer(text);
    return WIFEXITED(status) && WEXITSTATUS(status) <= 1 ? 0 : -EIO;
}

static int check_before(const struct ctl_options *o, int argc, char **argv)
{
    _cleanup_free_ char *text = NULL;
    cJSON *lines, *all = cJSON_CreateArray();
    size_t len = 0;
    bool good;
    int r;

    if (geteuid() != 0) {
        fprintf(stderr, "brumactl: check --before is for root: the kernel is asked\n");
        cJSON_Delete(all);
        return CTL_USAGE;
    }
    r = agent_says(argc, argv, &text, &len);
    lines = r == 0 ? answer_parse(&o->place, text, len) : NULL;
    if (!cJSON_IsArray(lines)) {
        fprintf(stderr, "brumactl: " AGENT " --check has not said what it has found\n");
        cJSON_Delete(lines);
        cJSON_Delete(all);
        return CTL_UNREACHABLE;
    }
    good = put(o, "this machine, before an install", "", lines, all);
    if (o->json)
        (void)print_json(all);
    else
        cJSON_Delete(all);
    return good ? CTL_OK : CTL_PROBLEM;
}

/* ---- after: what nodes have in common ---- */

static const cJSON *status_of(const struct node_answers *g, size_t i)
{
    return cJSON_GetArrayItem(get(g->answers[i].json, "status"), 0);
}

/* The version of agent or proxy of node i; "": not known. */
static const char *version_of(const struct node_answers *g, size_t i, bool proxy)
{
    const cJSON *status = status_of(g, i);

    return text_of(proxy ? cJSON_GetArrayItem(get(status, "proxies"), 0) : status, "version");
}

static void check_versions(const struct node_answers *g, cJSON *lines)
{
    const char *first = "", *other = "";
    size_t first_at = 0, other_at = 0;

    for (size_t i = 0; i < 2 * g->len; i++) {
        const char *version = version_of(g, i / 2, i % 2);

        if (!*first && *version) {
            first = version;
            first_at = i / 2;
        } else if (*version && strcmp(version, first) != 0) {
            other = version;
            other_at = i / 2;
        }
    }
    if (*other)
        say_wrong(lines, "versions", "there are several: %s on %s, and %s on %s", first,
                  gathered_node(g, first_at), other, gathered_node(g, other_at));
    else if (*first)
        say(lines, "versions", NULL, "all agents and proxies are of %s", first);
}

/* How far the two that are furthest apart differ for certain. */
static void check_clocks(const struct node_answers *g, cJSON *lines)
{
    size_t early = SIZE_MAX, late = SIZE_MAX;
    double low = INFINITY, high = -INFINITY;

    for (size_t i = 0; i < g->len; i++) {
        const cJSON *a = g->answers[i].json;
        double offset = number_of(a, "offset"), uncertainty = number_of(a, "uncertainty");

        if (!get(a, "offset"))
            continue;
        if (offset + uncertainty < low) {
            low = offset + uncertainty;
            early = i;
        }
        if (offset - uncertainty > high) {
            high = offset - uncertainty;
            late = i;
        }
    }
    if (early == SIZE_MAX)
        return;
    if (high - low > CLOCK_DIFFERENCE_MAX)
        say_wrong(lines, "clock", "the clock of %s is %.0f seconds ahead of that of %s",
                  gathered_node(g, late), high - low, gathered_node(g, early));
    else
        say(lines, "clock", NULL, "no two nodes differ by more than %.0f seconds", CLOCK_DIFFERENCE_MAX);
}

static void check_mtus(const struct node_answers *g, cJSON *lines)
{
    size_t small = SIZE_MAX, large = SIZE_MAX;
    double low = INFINITY, high = 0;

    for (size_t i = 0; i < g->len; i++) {
        double mtu = number_of(status_of(g, i), "mtu");

        if (mtu > 0 && mtu < low) {
            low = mtu;
            small = i;
        }
        if (mtu > high) {
            high = mtu;
            large = i;
        }
    }
    if (small == SIZE_MAX)
        return;
    if (high > low)
        say_wrong(lines, "MTU", "%.0f bytes on %s, and %.0f on %s: large packets may be lost between them",
                  low, gathered_node(g, small), high, gathered_node(g, large));
    else
        say(lines, "MTU", NULL, "%.0f bytes on all nodes", low);
}

static void check_together(const struct node_answers *g, cJSON *lines)
{
    check_versions(g, lines);
    if (g->len > 1) {
        check_clocks(g, lines);
        check_mtus(g, lines);
    }
}

static cJSON *lines_of(const struct fleet_answer *answer)
{
    static const enum bruma_reason away = BRUMA_REASON_AGENT_NOT_READY;
    cJSON *lines = cJSON_CreateArray();

    if (answer->code == CTL_OK)
        check_node(lines, answer->json);
    else
        say(lines, "agent", &away, "%s", answer->complaint);
    return lines;
}

static bool nobody_answered(const struct node_answers *g)
{
    for (size_t i = 0; i < g->len; i++)
        if (g->answers[i].code == CTL_OK)
            return false;
    return true;
}

static int check_after(const struct ctl_options *o)
{
    cJSON *all = cJSON_CreateArray(), *together = cJSON_CreateArray();
    struct node_answers g;
    bool good = true;
    int r = gather(o, check_ask, NULL, &g);

    if (r == CTL_OK) {
        for (size_t i = 0; i < g.len; i++) {
            char title[300];

            snprintf(title, sizeof(title), g.fleet ? "node %s" : "this node", gathered_node(&g, i));
            good = put(o, title, gathered_node(&g, i), lines_of(&g.answers[i]), all) && good;
        }
        check_together(&g, together);
        good = put(o, g.fleet ? "all nodes" : "agent and proxy", "", cJSON_Duplicate(together, true), all) &&
               good;
        if (o->json) {
            (void)print_json(all);
            all = NULL;
        }
        r = nobody_answered(&g) ? CTL_UNREACHABLE : good ? CTL_OK : CTL_PROBLEM;
        fleet_answers_free(&g.answers, g.len);
    }
    cJSON_Delete(together);
    cJSON_Delete(all);
    return r;
}

int command_check(const struct ctl_options *o, int argc, char **argv)
{
    if (o->before)
        return check_before(o, argc, argv);
    if (argc) {
        fprintf(stderr, "brumactl: check takes arguments only with --before\n");
        return CTL_USAGE;
    }
    return check_after(o);
}
