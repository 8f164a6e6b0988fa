/* SPDX-License-Identifier: Apache-2.0 */
/* The commands of brumactl. Each prints to stdout, complaints to stderr, and returns an exit code
 * (ctl/source.h). argv: what stands behind the command. */
#ifndef CTL_COMMANDS_H
#define CTL_COMMANDS_H

#include <cjson/cJSON.h>
#include <stdbool.h>

#include "ctl/flow_line.h"
#include "ctl/place.h"
#include "ctl/top_rows.h"

struct fleet;

struct top_options {
    enum top_by by;
    enum top_sort sort;
    unsigned count;    /* rows at most */
    unsigned interval; /* seconds between two readings */
    bool once;         /* also on a terminal */
};

/* Options of all commands. */
struct ctl_options {
    struct place place;    /* this machine */
    struct fleet *fleet;   /* all nodes of a cluster, in its place; NULL: none */
    const char *node;      /* of them only this one; NULL: all */
    const char *namespace; /* of pods: only these; NULL: all */
    bool json;             /* JSON instead of tables */
    unsigned timeout;      /* seconds, of replace */
    unsigned seconds;      /* of flows */
    bool follow;           /* flows: without an end */
    bool before;           /* check: this machine, before an install */
    unsigned port;         /* of the dashboard; 0: any that is free */
    bool no_browser;       /* the dashboard is not opened */
    struct flow_filter flows;
    struct top_options top;
};

/* What the agent and the proxy say of themselves. */
int command_status(const struct ctl_options *options, int argc, char **argv);
/* The agents' pods. */
int command_pods(const struct ctl_options *options, int argc, char **argv);
/* NAMESPACE/POD: tells the agent that the pod is about to end. */
int command_end(const struct ctl_options *options, int argc, char **argv);
/* PROGRAM [ARGUMENT ...], NULL behind the last: starts it as the proxy that takes over, and returns once it
 * has; else it ends, and nothing has changed. */
int command_replace(const struct ctl_options *options, int argc, char **argv);
/* The agent's checks; CTL_PROBLEM if one has found something. */
int command_doctor(const struct ctl_options *options, int argc, char **argv);
/* Whether this machine has what is needed (before: argv is for bruma-agent --check), or all nodes are as they
 * should be; CTL_PROBLEM if not. */
int command_check(const struct ctl_options *options, int argc, char **argv);
/* NAMESPACE/POD, that and IP:PORT, a host name or another pod, or the name of a reason. */
int command_explain(const struct ctl_options *options, int argc, char **argv);
/* The proxy's connections. */
int command_connections(const struct ctl_options *options, int argc, char **argv);
/* Connections as they are opened, closed and refused. */
int command_flows(const struct ctl_options *options, int argc, char **argv);
/* Who uses the mesh most, from two readings of the proxies' metrics; on a terminal again and again. */
int command_top(const struct ctl_options *options, int argc, char **argv);
/* Serves a page about all of it on loopback, and opens it, until it is interrupted. */
int command_dashboard(const struct ctl_options *options, int argc, char **argv);
/* The policies that the proxy knows. */
int command_policy(const struct ctl_options *options, int argc, char **argv);
/* The certificates that the proxy has. */
int command_identities(const struct ctl_options *options, int argc, char **argv);
/* Endpoints of services that the proxy leaves out of its choice for a moment. */
int command_endpoints(const struct ctl_options *options, int argc, char **argv);
/* [--markdown]: the whole list of reasons. */
int command_reasons(const struct ctl_options *options, int argc, char **argv);

/* Findings of explain and doctor, {"check","ok","detail","reason","advice"}: a line each, advice where
 * something is wrong. Takes items. */
int print_checks(const struct ctl_options *options, cJSON *items);

#endif
