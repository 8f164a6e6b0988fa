/* SPDX-License-Identifier: Apache-2.0 */
/* brumactl: shows what is going on. It changes nothing, but by "end" and "replace". */
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bruma/mesh.h"
#include "ctl/commands.h"
#include "ctl/source.h"
#include "lib/cleanup.h"

#define TIMEOUT_MAX 86400 /* seconds */

static const struct {
    const char *name;
    int (*run)(const struct ctl_options *, int, char **);
    const char *arguments, *help;
} commands[] = {
    {"status", command_status, "", "state of agent, proxy and mesh, and problems"},
    {"pods", command_pods, "", "the pods of this node and their capture"},
    {"connections", command_connections, "", "connections that are open, through the proxy or past it"},
    {"policy", command_policy, "", "authorization policies in the proxy"},
    {"identities", command_identities, "", "certificates of this node's pods"},
    {"endpoints", command_endpoints, "", "endpoints of services that are left out for a moment"},
    {"explain", command_explain, "NAMESPACE/POD [IP:PORT | HOSTNAME] | REASON",
     "why a pod or a connection is in its state, or what a reason means"},
    {"end", command_end, "NAMESPACE/POD", "say that a pod is about to end (without Kubernetes)"},
    {"replace", command_replace, "[--timeout SECONDS] PROGRAM [ARGUMENT ...]",
     "start PROGRAM as the next proxy, until it has taken over"},
    {"doctor", command_doctor, "", "checks of kernel, hooks, pins and processes"},
    {"reasons", command_reasons, "[--markdown]", "all failure reasons"},
};

static int usage(FILE *out, int code)
{
    fprintf(out, "usage: brumactl [--run-dir DIR] COMMAND [-o json]\n\n");
    for (size_t i = 0; i < array_size(commands); i++)
        fprintf(out, "  %-12s %-40s %s\n", commands[i].name, commands[i].arguments, commands[i].help);
    fprintf(out,
            "\n  --run-dir DIR   run directory of agent and proxy (BRUMA_RUN_DIR; default %s)\n"
            "  -o json         output for programs; the default is for people\n"
            "  --version, --help\n\n"
            "exit code: 0 no problem, 1 problems found, 2 usage error, 3 agent or proxy cannot be reached\n",
            BRUMA_DEFAULT_RUN_DIR);
    return code;
}

static int run(const struct ctl_options *o, int argc, char **argv)
{
    for (size_t i = 0; argc && i < array_size(commands); i++) {
        if (strcmp(commands[i].name, argv[0]) != 0)
            continue;
        if (argc > 1 && !*commands[i].arguments) {
            fprintf(stderr, "brumactl: %s takes no argument\n", argv[0]);
            return CTL_USAGE;
        }
        return commands[i].run(o, argc - 1, argv + 1);
    }
    if (argc)
        fprintf(stderr, "brumactl: unknown command \"%s\"\n", argv[0]);
    return usage(stderr, CTL_USAGE);
}

/* False: it is none, or not one from 1 to TIMEOUT_MAX. */
static bool parse_seconds(const char *text, unsigned *ret)
{
    char *end;
    long seconds;

    errno = 0;
    seconds = strtol(text, &end, 10);
    if (errno || end == text || *end || seconds < 1 || seconds > TIMEOUT_MAX)
        return false;
    *ret = (unsigned)seconds;
    return true;
}

int main(int argc, char **argv)
{
    static const struct option options[] = {{"run-dir", required_argument, NULL, 'r'},
                                            {"output", required_argument, NULL, 'o'},
                                            {"markdown", no_argument, NULL, 'm'},
                                            {"version", no_argument, NULL, 'v'},
                                            {"help", no_argument, NULL, 'h'},
                                            {"timeout", required_argument, NULL, 't'},
                                            {}};
    const char *env = getenv("BRUMA_RUN_DIR");
    struct ctl_options o = {.run_dir = env && *env ? env : BRUMA_DEFAULT_RUN_DIR, .timeout = 60};
    static char markdown_word[] = "--markdown";
    _cleanup_free_ char **arguments = calloc((size_t)argc + 2, sizeof(*arguments)); /* NULL behind the last */
    bool markdown = false;
    int c, n = 0;

    if (!arguments) {
        fprintf(stderr, "brumactl: out of memory\n");
        return CTL_PROBLEM;
    }

    while ((c = getopt_long(argc, argv, "o:h", options, NULL)) >= 0) {
        switch (c) {
        case 'r':
            o.run_dir = optarg;
            break;
        case 'o':
            o.json = !strcmp(optarg, "json");
            if (!o.json && strcmp(optarg, "table") != 0) {
                fprintf(stderr, "brumactl: output \"%s\" is neither json nor table\n", optarg);
                return CTL_USAGE;
            }
            break;
        case 'm':
            markdown = true;
            break;
        case 't':
            if (!parse_seconds(optarg, &o.timeout)) {
                fprintf(stderr, "brumactl: timeout \"%s\" is no number of seconds from 1 to %d\n", optarg,
                        TIMEOUT_MAX);
                return CTL_USAGE;
            }
            break;
        case 'v':
            printf("brumactl %s\n", BRUMA_VERSION);
            return CTL_OK;
        case 'h':
            return usage(stdout, CTL_OK);
        default:
            return CTL_USAGE;
        }
    }
    for (; optind < argc; optind++)
        arguments[n++] = argv[optind];
    if (markdown)
        arguments[n++] = markdown_word;
    return run(&o, n, arguments);
}
