/* SPDX-License-Identifier: Apache-2.0 */
/* An agent with one pod, whose steering and mesh are agent_doubles.h's, for tests of the way into the mesh
 * and out of it. */
#ifndef TESTS_UNIT_AGENT_ENROLL_ENROLL_SITE_H
#define TESTS_UNIT_AGENT_ENROLL_ENROLL_SITE_H

#include "agent/agent.h"

extern struct agent agent;
extern struct pod *pod;    /* shop/web, in netns, not enrolled yet */
extern char directory[64]; /* of the agent's files */
extern int netns;

/* Of each test, which needs root. */
void enroll_setup(void);
void enroll_teardown(void);

/* The steps since the last time, in words; forgets them. */
void expect_steps(const char *expected);

/* Whether the pod is in the agent's records. */
bool record_exists(void);

/* How many this process has, more or less by a constant. */
int open_descriptors(void);

/* Runs the timer's function as the loop would. */
void fire(struct loop_timer *timer);

#endif
