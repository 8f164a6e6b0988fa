/* SPDX-License-Identifier: Apache-2.0 */
/* An agent that offers pods to stock node proxies, for tests that are these proxies, at the other end of the
 * socket. */
#ifndef TESTS_UNIT_AGENT_PROXIES_ZDS_SITE_H
#define TESTS_UNIT_AGENT_PROXIES_ZDS_SITE_H

#include "agent/agent.h"
#include "agent/proxies/zds_peers.h"

extern struct agent agent;
extern struct zds_server *server;
extern struct pod *web;    /* shop/web, not enrolled yet */
extern char directory[64]; /* of the agent's files */
extern char told[2048];    /* what the proxies were told, in words */

/* Of each test, which needs root. */
void zds_setup(void);
void zds_teardown(void);

/* Another pod of the namespace shop. */
struct pod *new_pod(const char *uid, const char *name, const char *ip);

/* Runs the agent's loop for about this long. */
void run(unsigned milliseconds);

struct proxy_end {
    int fd; /* the test closes it */
    struct zds_peer *peer;
};

/* pid is what foreign_pid shows. It says hello if greet. */
struct proxy_end proxy_new(int pid, bool greet);
/* One that has all pods, of which none is enrolled by this. */
struct proxy_end serving(int pid);

/* Takes one request, writes it down in told, and answers; NULL: does not. False: there is none, "END" if the
 * connection is over. */
bool answer(struct proxy_end *e, const char *error);
/* Says yes to everything that comes within the time. */
void obey(struct proxy_end *e, unsigned milliseconds);
/* What was told since the last time; forgets it. */
void expect_told(const char *expected);
/* The agent has ended the connection. */
void expect_ended(struct proxy_end *e);

#endif
