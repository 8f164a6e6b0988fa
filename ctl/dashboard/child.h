/* SPDX-License-Identifier: Apache-2.0 */
/* A command of brumactl that runs in a process of its own, and whose output is read. */
#ifndef CTL_DASHBOARD_CHILD_H
#define CTL_DASHBOARD_CHILD_H

#include <sys/types.h>

#include "ctl/commands.h"

/* Text that grows; zeroed it is empty. data has a NUL behind it once there is any, and is freed by its
 * owner. */
struct child_text {
    char *data;
    size_t len, room; /* bytes */
};

struct child {
    pid_t pid;    /* 0: none runs */
    int out, err; /* nonblocking ends of its stdout and stderr; -1: none */
};

/* What runs in the new process, as a command of brumactl does (commands.h): once, on its only thread. Returns
 * an exit code. */
typedef int (*child_fn)(const struct ctl_options *options, int argc, char **argv);

/* Starts fn, whose exit code is the child's. A fleet is asked for its nodes anew there. The child dies with
 * its parent's thread. 0 or -errno of pipe() and fork(). */
int child_start(const struct ctl_options *options, child_fn fn, int argc, char **argv, struct child *ret);
/* Ends it if it runs still, waits for it and closes what was read. Its exit code; -1: it ended by a
 * signal. */
int child_end(struct child *child);
/* The same of one that has ended by itself or is about to. Returns its exit code, or -1. */
int child_wait(struct child *child);
/* Appends what can be read now. 1: there may be more; 0: it has ended; -EFBIG: more than max bytes, -errno of
 * read(). */
int child_read(int fd, struct child_text *text, size_t max);

#endif
