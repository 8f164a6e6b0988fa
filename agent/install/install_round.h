/* SPDX-License-Identifier: Apache-2.0 */
/* One look at what is installed, and putting right what is not. Private to install.c. */
#ifndef AGENT_INSTALL_INSTALL_ROUND_H
#define AGENT_INSTALL_INSTALL_ROUND_H

#include <pthread.h>

#include "agent/install/install.h"
#include "agent/install/install_network.h"

#define INSTALL_WATCHED    3   /* directories */
#define INSTALL_ERROR_TEXT 400 /* bytes, with the NUL */

/* The changes that were made of late. */
struct install_budget {
    unsigned spent;
    uint64_t spent_at, contested_until; /* loop time in milliseconds */
};

/*
 * One round. It has a thread of its own, since a disk may take its time to write, and works on copies of what
 * the agent's thread has; that one takes them back when it has ended.
 */
struct install_round {
    struct install *install;
    struct loop *loop;
    const struct agent_settings *settings;
    pthread_t thread;
    uint64_t now; /* loop time when it began */
    struct install_budget budget;
    struct install_network network;
    int inotify, watches[INSTALL_WATCHED];

    bool watch_failed;
    int program, entry;             /* results; entry only if program is not negative */
    char error[INSTALL_ERROR_TEXT]; /* of program */
};

/* On the round's thread: puts program and entry where they belong, and watches where that is. The results are
 * in the round. */
void install_round_run(struct install_round *round);
/* Watches the directories, by their names of now. A watch that is there stays. */
void install_round_watch(struct install_round *round);
/* Of struct install_network, whose data is the round: 0, or -EBUSY if too much was changed of late. */
int install_round_may_write(void *data);

#endif
