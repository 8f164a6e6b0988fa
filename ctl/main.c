/* SPDX-License-Identifier: Apache-2.0 */
/* brumactl: shows what is going on. It changes nothing, but by "end" and "replace". */
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bruma/mesh.h"
#include "bruma/protocol.h"
#include "ctl/commands.h"
#include "ctl/fleet.h"
#include "ctl/source.h"
#include "lib/cleanup.h"

#define NUMBER_MAX 86400 /* seconds, or rows */
#define PLUGIN     "kubectl-bruma"

enum where { EVERYWHERE, THIS_MACHINE, NOWHERE };

static const struct command {
    const char *name;
    int (*run)(const struct ctl_options *, int, char **);
    enum where where;
    const char *options; /* letters of those that not all commands have */
    const char *arguments, *help, *examples;
} commands[] = {
    {"status", command_status, EVERYWHERE, "", "", "state of agent, proxy and mesh, and problems",
     "brumactl status\nbrumactl status --node n1      all about one node\n"
     "brumactl status -o json | jq '.[] | select(.error)'"},
    {"pods", command_pods, EVERYWHERE, "n", "[-n NAMESPACE | -A]", "pods and their capture",
     "brumactl pods -A\nbrumactl pods -n shop --node n1"},
    {"connections", command_connections, EVERYWHERE, "n", "[-n NAMESPACE | -A]",
     "connections that are open, through the proxy or past it", "brumactl connections -n shop"},
    {"flows", command_flows, EVERYWHERE, "fsFTWR",
     "[-f | --for SECONDS] [--from END] [--to END] [--reason REASON] [--refused]",
     "connections as they are opened, closed and refused, for 5 seconds, or with -f until it is interrupted",
     "brumactl flows -f\nbrumactl flows -f --from shop/web-0 --to 10.0.1.9\nbrumactl flows -f --refused --to "
     "shop\n"
     "brumactl flows --for 60 --reason policy_denied -o json"},
    {"top", command_top, EVERYWHERE, "bOcI1n",
     "[--by workload|namespace|service] [--sort COLUMN] [--count N] [--interval SECONDS] [--once] [-n "
     "NAMESPACE]",
     "who uses the mesh most: connections and bytes a second, of two readings; on a terminal until it is "
     "interrupted",
     "brumactl top\nbrumactl top --by service --sort failed\nbrumactl top -n shop --count 5 --once\n"
     "brumactl top --interval 30 -o json | jq '.rows[] | select(.failedPerSecond > 0)'"},
    {"dashboard", command_dashboard, EVERYWHERE, "PX", "[--port PORT] [--no-browser]",
     "a page in the browser of this machine: pods, who talks with whom, flows, certificates, cost",
     "brumactl dashboard\nbrumactl --context prod dashboard --port 8080 --no-browser"},
    {"policy", command_policy, EVERYWHERE, "", "", "authorization policies in the proxies",
     "brumactl policy      what not all nodes have says so"},
    {"identities", command_identities, EVERYWHERE, "", "", "certificates of the pods",
     "brumactl identities --node n1"},
    {"endpoints", command_endpoints, EVERYWHERE, "", "",
     "endpoints of services that are left out for a moment", "brumactl endpoints"},
    {"explain", command_explain, EVERYWHERE, "",
     "NAMESPACE/POD [IP:PORT | HOSTNAME | NAMESPACE/POD:PORT] | REASON",
     "why a pod or a connection is in its state, or what a reason means",
     "brumactl explain shop/web-0\nbrumactl explain shop/web-0 shop/cart-0:8080\n"
     "brumactl explain shop/web-0 10.0.1.9:6379\nbrumactl explain shop/web-0 cart.shop\n"
     "brumactl explain policy_denied"},
    {"end", command_end, THIS_MACHINE, "", "NAMESPACE/POD",
     "say that a pod is about to end (without Kubernetes)", "brumactl end shop/web-0"},
    {"replace", command_replace, THIS_MACHINE, "t", "[--timeout SECONDS] PROGRAM [ARGUMENT ...]",
     "start PROGRAM as the next proxy, until it has taken over",
     "brumactl replace -- /usr/sbin/bruma-proxy --admin-port 15000"},
    {"check", command_check, EVERYWHERE, "B", "[--before [-- OPTION ...]]",
     "whether all nodes are as they should be, and what to do where they are not; --before: whether this "
     "machine has what it "
     "needs, before an install",
     "brumactl check\nbrumactl check -o json | jq '.[] | select(.ok | not)'\nbrumactl check --before\n"
     "brumactl check --before -- --cni-conf-dir /var/lib/rancher/k3s/agent/etc/cni/net.d"},
    {"doctor", command_doctor, EVERYWHERE, "", "", "checks of kernel, hooks, pins and processes",
     "brumactl doctor"},
    {"reasons", command_reasons, NOWHERE, "m", "[--markdown]", "all failure reasons", "brumactl reasons"},
};

struct arguments {
    const char *kubeconfig, *context, *system_namespace;
    bool run_dir, markdown, help;
    bool given[128]; /* by letter */
};

#define OF_ALL "rohvKCNSA" /* options that each command has; not each of them means something to it */

static const struct option options[] = {{"run-dir", required_argument, NULL, 'r'},
                                        {"output", required_argument, NULL, 'o'},
                                        {"markdown", no_argument, NULL, 'm'},
                                        {"version", no_argument, NULL, 'v'},
                                        {"help", no_argument, NULL, 'h'},
                                        {"timeout", required_argument, NULL, 't'},
                                        {"follow", no_argument, NULL, 'f'},
                                        {"for", required_argument, NULL, 's'},
                                        {"from", required_argument, NULL, 'F'},
                                        {"to", required_argument, NULL, 'T'},
                                        {"reason", required_argument, NULL, 'W'},
                                        {"refused", no_argument, NULL, 'R'},
                                        {"by", required_argument, NULL, 'b'},
                                        {"sort", required_argument, NULL, 'O'},
                                        {"count", required_argument, NULL, 'c'},
                                        {"interval", required_argument, NULL, 'I'},
                                        {"once", no_argument, NULL, '1'},
                                        {"before", no_argument, NULL, 'B'},
                                        {"port", required_argument, NULL, 'P'},
                                        {"no-browser", no_argument, NULL, 'X'},
                                        {"kubeconfig", required_argument, NULL, 'K'},
                                        {"context", required_argument, NULL, 'C'},
                                        {"node", required_argument, NULL, 'N'},
                                        {"system-namespace", required_argument, NULL, 'S'},
                                        {"namespace", required_argument, NULL, 'n'},
                                        {"all-namespaces", no_argument, NULL, 'A'},
                                        {}};

/* ---- help ---- */

static int usage(FILE *out, int code)
{
    fprintf(out, "usage: brumactl [OPTION ...] COMMAND [-o json]\n\n");
    for (size_t i = 0; i < array_size(commands); i++)
        fprintf(out, "  %s%s%s\n      %s\n", commands[i].name, *commands[i].arguments ? " " : "",
                commands[i].arguments, commands[i].help);
    fprintf(out,
            "\nOf this machine:\n"
            "  --run-dir DIR           run directory of agent and proxy (BRUMA_RUN_DIR; default %s)\n"
            "\nOf all nodes of a cluster, where no agent or proxy runs on this machine, or with one of\n"
            "--kubeconfig and --context, or as `kubectl bruma`:\n"
            "  --kubeconfig FILE       as kubectl has it (KUBECONFIG; default ~/.kube/config)\n"
            "  --context NAME          one of its contexts\n"
            "  --node NAME             this node alone\n"
            "  --system-namespace NS   where Bruma is installed (default " FLEET_NAMESPACE ")\n"
            "\n"
            "  -o json                 output for programs; the default is for people\n"
            "  --version, --help       also of one command: brumactl COMMAND --help\n\n"
            "exit code: 0 no problem, 1 problems found, 2 usage error, 3 agent or proxy cannot be reached\n",
            BRUMA_DEFAULT_RUN_DIR);
    return code;
}

static int command_usage(const struct command *c)
{
    const char *line = c->examples;

    printf("usage: brumactl %s%s%s\n\n%s\n\nexamples:\n", c->name, *c->arguments ? " " : "", c->arguments,
           c->help);
    while (*line) {
        size_t len = strcspn(line, "\n");

        printf("  %.*s\n", (int)len, line);
        line += len + (line[len] == '\n');
    }
    return CTL_OK;
}

/* ---- options ---- */

/* False: it is none, or not one from 1 to NUMBER_MAX. */
static bool parse_number(const char *text, unsigned *ret)
{
    char *end;
    long seconds;

    errno = 0;
    seconds = strtol(text, &end, 10);
    if (errno || end == text || *end || seconds < 1 || seconds > NUMBER_MAX)
        return false;
    *ret = (unsigned)seconds;
    return true;
}

static bool parse_output(const char *text, bool *ret_json)
{
    *ret_json = !strcmp(text, "json");
    if (*ret_json || !strcmp(text, "table"))
        return true;
    fprintf(stderr, "brumactl: output \"%s\" is neither json nor table\n", text);
    return false;
}

/* The option's value as a number; the same. */
static bool take_number(const char *option, const char *unit, unsigned *ret)
{
    if (parse_number(optarg, ret))
        return true;
    fprintf(stderr, "brumactl: %s \"%s\" is no number%s from 1 to %d\n", option, optarg, unit, NUMBER_MAX);
    return false;
}

/* Says so of the option's value; false. */
static bool is_none(const char *option, const char *all)
{
    fprintf(stderr, "brumactl: %s \"%s\": there are %s\n", option, optarg, all);
    return false;
}

/* False: it is none, or not one from 1 to 65535. */
static bool parse_port(const char *text, unsigned *ret)
{
    char *end;
    long port;

    errno = 0;
    port = strtol(text, &end, 10);
    if (errno || end == text || *end || port < 1 || port > 65535) {
        fprintf(stderr, "brumactl: port \"%s\" is no number from 1 to 65535\n", text);
        return false;
    }
    *ret = (unsigned)port;
    return true;
}

/* False: said what is wrong. */
static bool take_option(int c, struct ctl_options *o, struct arguments *a)
{
    const char **texts[] = {
        ['C'] = &a->context,   ['K'] = &a->kubeconfig, ['N'] = &o->node,     ['S'] = &a->system_namespace,
        ['n'] = &o->namespace, ['F'] = &o->flows.from, ['T'] = &o->flows.to, ['W'] = &o->flows.reason};

    switch (c) {
    case 'r':
        o->place.run_dir = optarg;
        a->run_dir = true;
        return true;
    case 'o':
        return parse_output(optarg, &o->json);
    case 'm':
        a->markdown = true;
        return true;
    case 'A': /* all namespaces, as without it */
        o->namespace = NULL;
        return true;
    case 'h':
        a->help = true;
        return true;
    case 'f':
        o->follow = true;
        return true;
    case 'R':
        o->flows.refused = true;
        return true;
    case 'P':
        return parse_port(optarg, &o->port);
    case 'X':
        o->no_browser = true;
        return true;
    case 's':
        return take_number("for", " of seconds", &o->seconds);
    case 't':
        return take_number("timeout", " of seconds", &o->timeout);
    case 'I':
        return take_number("interval", " of seconds", &o->top.interval);
    case 'c':
        return take_number("count", "", &o->top.count);
    case 'B':
        o->before = true;
        return true;
    case '1':
        o->top.once = true;
        return true;
    case 'b':
        o->top.by = top_by_from(optarg);
        return o->top.by != TOP_BYS || is_none("by", "workload, namespace and service");
    case 'O':
        o->top.sort = top_sort_from(optarg);
        return o->top.sort != TOP_SORTS || is_none("sort", "bytes, in, out, open, opened, failed and name");
    default:
        if (c >= (int)array_size(texts) || !texts[c])
            return false;
        *texts[c] = optarg;
        return true;
    }
}

/* ---- where ---- */

static bool somebody_is_here(const char *run_dir)
{
    static const char *const names[] = {BRUMA_AGENT_SOCKET, BRUMA_PROXY_SOCKET};
    char path[512];

    for (size_t i = 0; i < array_size(names); i++) {
        snprintf(path, sizeof(path), "%s/%s", run_dir, names[i]);
        if (access(path, F_OK) == 0)
            return true;
    }
    return false;
}

/* An operator's own machine has no run directory; a node has one, and is asked itself unless it is said. */
static bool wants_fleet(const struct ctl_options *o, const struct arguments *a, const char *program)
{
    const char *slash = strrchr(program, '/');

    if (a->run_dir)
        return false;
    return a->kubeconfig || a->context || o->node || !strcmp(slash ? slash + 1 : program, PLUGIN) ||
           (!somebody_is_here(o->place.run_dir) && kubeconfig_is_there(NULL));
}

static int run_command(const struct command *c, struct ctl_options *o, const struct arguments *a,
                       const char *program, int argc, char **argv)
{
    const bool json = o->json || c->run == command_dashboard;
    const struct fleet_config config = {a->kubeconfig, a->context, a->system_namespace, o->node, json};
    int r;

    o->place.as_json = json;
    if (o->before && (a->kubeconfig || a->context || o->node)) {
        fprintf(stderr,
                "brumactl: check --before is of this machine: --kubeconfig, --context and --node are not\n");
        return CTL_USAGE;
    }
    if (c->where == NOWHERE || o->before || !wants_fleet(o, a, program))
        return c->run(o, argc, argv);
    if (c->where == THIS_MACHINE) {
        fprintf(stderr, "brumactl: %s is for the machine that it runs on\n", c->name);
        return CTL_USAGE;
    }
    r = fleet_open(&config, &o->fleet);
    if (r != CTL_OK)
        return r;
    r = c->run(o, argc, argv);
    fleet_close(&o->fleet);
    return r;
}

/* What is not looked at is refused: who gives it must not believe that it counts. */
static bool takes_options(const struct command *c, const struct arguments *a)
{
    for (size_t i = 0; options[i].name; i++) {
        int letter = options[i].val;

        if (a->given[letter] && !strchr(OF_ALL, letter) && !strchr(c->options, letter)) {
            fprintf(stderr, "brumactl: %s takes no --%s\n", c->name, options[i].name);
            return false;
        }
    }
    return true;
}

static int run(struct ctl_options *o, const struct arguments *a, const char *program, int argc, char **argv)
{
    for (size_t i = 0; argc && i < array_size(commands); i++) {
        const struct command *c = &commands[i];

        if (strcmp(c->name, argv[0]) != 0)
            continue;
        if (a->help)
            return command_usage(c);
        if (!takes_options(c, a))
            return CTL_USAGE;
        if (argc > 1 && (!*c->arguments || *c->arguments == '[') && c->run != command_replace &&
            c->run != command_reasons && c->run != command_check) {
            fprintf(stderr, "brumactl: %s takes no argument\n", argv[0]);
            return CTL_USAGE;
        }
        return run_command(c, o, a, program, argc - 1, argv + 1);
    }
    if (a->help)
        return usage(stdout, CTL_OK);
    if (argc)
        fprintf(stderr, "brumactl: unknown command \"%s\"\n", argv[0]);
    return usage(stderr, CTL_USAGE);
}

int main(int argc, char **argv)
{
    const char *env = getenv("BRUMA_RUN_DIR");
    struct ctl_options o = {.place.run_dir = env && *env ? env : BRUMA_DEFAULT_RUN_DIR,
                            .timeout = 60,
                            .seconds = 5,
                            .top = {.count = 20, .interval = 2}};
    struct arguments a = {.run_dir = env && *env, .system_namespace = FLEET_NAMESPACE};
    static char markdown_word[] = "--markdown";
    _cleanup_free_ char **arguments = calloc((size_t)argc + 2, sizeof(*arguments)); /* NULL behind the last */
    int c, n = 0;

    if (!arguments) {
        fprintf(stderr, "brumactl: out of memory\n");
        return CTL_PROBLEM;
    }
    while ((c = getopt_long(argc, argv, "o:hn:Afc:", options, NULL)) >= 0) {
        if (c == 'v') {
            printf("brumactl %s\n", BRUMA_VERSION);
            return CTL_OK;
        }
        if (!take_option(c, &o, &a))
            return CTL_USAGE;
        a.given[c & 127] = true;
    }
    for (; optind < argc; optind++)
        arguments[n++] = argv[optind];
    if (a.markdown)
        arguments[n++] = markdown_word;
    return run(&o, &a, argv[0], n, arguments);
}
