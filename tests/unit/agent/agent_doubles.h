/* SPDX-License-Identifier: Apache-2.0 */
/* A steering library that writes down what it is asked to do and fails where a test wants it to, and a mesh
 * whose labels a test sets. The agent's core is linked with these to see the order of its steps. */
#ifndef TESTS_UNIT_AGENT_AGENT_DOUBLES_H
#define TESTS_UNIT_AGENT_AGENT_DOUBLES_H

#include "agent/agent.h"
#include "agent/control_plane/mesh.h"

extern char steps[4096];          /* words separated by spaces */
extern const char *failing_step;  /* that word fails with -EIO */
extern int findings_to_report;    /* the next verification finds RULE_MISSING so many times */
extern bool link_attached;        /* what steer_pod_attached() says */
extern bool namespace_is_ambient; /* what the mesh says of every namespace */
extern bool mesh_is_ready;
extern bool announced_enrolled; /* as last told to the control plane */
extern int announced_pods;      /* how many pods it knows of */

extern struct steer_probe registered_probes[16];
extern int registered_probes_len;

extern const char *service_account; /* what the mesh says of every pod */
extern int foreign_result;          /* of steer_foreign_listeners(): 0 or -errno */
extern int foreign_pid;             /* of the process whose listeners were looked for last */
extern bool foreign_live;           /* what steer_foreign_listeners_live() says */
extern int marked_connections;      /* what steer_marked_connections() says */
extern struct steer_proxy_cgroup exempt_cgroups[8];
extern int exempt_cgroups_len;

void steps_clear(void);

#endif
