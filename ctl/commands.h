/* SPDX-License-Identifier: Apache-2.0 */
/* The commands of brumactl. Each prints to stdout, complaints to stderr, and returns an exit code
 * (ctl/source.h). argv: what stands behind the command. */
#ifndef CTL_COMMANDS_H
#define CTL_COMMANDS_H

#include <cjson/cJSON.h>
#include <stdbool.h>

/* Options of all commands. */
struct ctl_options {
    const char *run_dir; /* where the sockets are */
    bool json;           /* JSON instead of tables */
    unsigned timeout;    /* seconds, of replace */
};

/* What the agent and the proxy say of themselves. */
int command_status(const struct ctl_options *options, int argc, char **argv);
/* The agent's pods. */
int command_pods(const struct ctl_options *options, int argc, char **argv);
/* NAMESPACE/POD: tells the agent that the pod is about to end. */
int command_end(const struct ctl_options *options, int argc, char **argv);
/* PROGRAM [ARGUMENT ...], NULL behind the last: starts it as the proxy that takes over, and returns once it
 * has; else it ends, and nothing has changed. */
int command_replace(const struct ctl_options *options, int argc, char **argv);
/* The agent's checks; CTL_PROBLEM if one has found something. */
int command_doctor(const struct ctl_options *options, int argc, char **argv);
/* NAMESPACE/POD, NAMESPACE/POD IP:PORT, or the name of a reason. */
int command_explain(const struct ctl_options *options, int argc, char **argv);
/* The proxy's connections. */
int command_connections(const struct ctl_options *options, int argc, char **argv);
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
/* explain_connection.c: how the proxy would treat a connection of a pod to an endpoint, by what it knows. */
int explain_connection(const struct ctl_options *options, const char *pod, const char *target);
/* explain_name.c: how a DNS query of the pod for the name is answered, and why. */
int explain_name(const struct ctl_options *options, const char *pod, const char *name);

#endif
