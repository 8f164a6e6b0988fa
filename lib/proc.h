/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of /proc/PID say. */
#ifndef LIB_PROC_H
#define LIB_PROC_H

#include <stdint.h>
#include <sys/types.h>

#define PROC_STAT_TEXT 1024 /* bytes that hold the text of /proc/PID/stat */

/* A field of the text of /proc/PID/stat, up to its end; they are numbered as in proc_pid_stat(5), from 3 on.
 * NULL if there is none. The name before them may hold anything. The result points into stat. */
const char *proc_stat_field(const char *stat, int field);
/* When the process began, in clock ticks since boot, by the text of /proc/PID/stat. 0 or -EBADMSG. */
int proc_stat_start(const char *stat, uint64_t *ret);
/* The same of a process that is looked for in /proc; 0: not known. */
uint64_t proc_start(pid_t pid);

/* The path in the hierarchy of cgroup2, by the text of /proc/PID/cgroup; NULL if there is none. The result
 * points into the text, which is cut behind it. */
char *proc_cgroup2(char *cgroup);

#endif
