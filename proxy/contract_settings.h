/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Environment variables of the node proxy contract that are no settings of ours: with the values that mean
 * what is done anyway they are accepted, with any other the proxy does not start. Silence would be worse: who
 * sets one counts on it.
 */
#ifndef PROXY_CONTRACT_SETTINGS_H
#define PROXY_CONTRACT_SETTINGS_H

#include <stddef.h>
#include <stdio.h>

/* Looks at the environment. 0, or -EINVAL with a sentence in error that names the variable. Before threads
 * start. */
int contract_settings_check(char *error, size_t error_size);
/* Rows of a table of docs/settings.md. */
void contract_settings_markdown(FILE *out);

#endif
