/* SPDX-License-Identifier: Apache-2.0 */
#ifndef TESTS_UNIT_AGENT_PROC_FILES_H
#define TESTS_UNIT_AGENT_PROC_FILES_H

/* Writes text into root/pid/name, as /proc and the file system of cgroups have files; makes the directory
 * root/pid. */
void write_proc(const char *root, const char *pid, const char *name, const char *text);

#endif
