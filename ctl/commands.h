/* SPDX-License-Identifier: Apache-2.0 */
/* The commands of brumactl. Each prints and returns an exit code (source.h). */
#ifndef CTL_COMMANDS_H
#define CTL_COMMANDS_H

#include <cjson/cJSON.h>
#include <stdbool.h>

struct ctl_options {
    const char *run_dir;
    bool json;
};

int command_status(const struct ctl_options *options, int argc, char **argv);
int command_pods(const struct ctl_options *options, int argc, char **argv);
int command_doctor(const struct ctl_options *options, int argc, char **argv);
/* NAMESPACE/POD, NAMESPACE/POD IP:PORT, or the name of a reason. */
int command_explain(const struct ctl_options *options, int argc, char **argv);
int command_connections(const struct ctl_options *options, int argc, char **argv);
int command_policy(const struct ctl_options *options, int argc, char **argv);
int command_identities(const struct ctl_options *options, int argc, char **argv);
/* [--markdown]: the whole list of reasons. */
int command_reasons(const struct ctl_options *options, int argc, char **argv);

/* Findings of explain and doctor, {"check","ok","detail","reason","advice"}: a line each, advice where
 * something is wrong. Takes items. */
int print_checks(const struct ctl_options *options, cJSON *items);
/* explain_connection.c: how the proxy would treat a connection of a pod to an endpoint, by what it knows. */
int explain_connection(const struct ctl_options *options, const char *pod, const char *target);

#endif
