/* SPDX-License-Identifier: Apache-2.0 */
/* What the kernel's programs find when they ask about direct ways, for people who want to know why. */
#ifndef AGENT_STEER_DIRECT_VIEW_H
#define AGENT_STEER_DIRECT_VIEW_H

#include "agent/steer/direct.h"

/* What is the same for all pods, at one moment. */
struct steer_direct_view {
    struct bruma_direct_control control;
    bool lives;               /* the process that it names holds its socket */
    uint64_t now_nanoseconds; /* CLOCK_MONOTONIC */
    uint64_t connections;     /* that go directly now */
    struct bruma_flow_limits limits;
    uint64_t flows_full_nanoseconds; /* when flows had no room the last time; 0: never */
};

/* 0; -EOPNOTSUPP, this kernel cannot run the programs; or -errno. */
int steer_direct_look(const struct steer *steer, struct steer_direct_view *ret);

/*
 * Why connections of the pod do not go one of the ways (enum bruma_direct_way) as far as that does not depend
 * on the connection: asked in the order of the programs. NONE: they do, and *ret_way is the one. generation:
 * of the enrollment.
 */
enum bruma_long_way steer_direct_ask(const struct steer *steer, const struct steer_direct_view *view,
                                     uint64_t cookie, uint32_t generation, uint32_t ways, uint32_t *ret_way);
/* The same of a connection to that address by BRUMA_DIRECT_OUTSIDE; pod: its entry. */
enum bruma_long_way steer_direct_ask_outside(const struct steer *steer, const struct steer_direct_view *view,
                                             uint64_t cookie, const struct bruma_pod *pod,
                                             const struct endpoint *to);
/* True if a connection to there may go to another pod of this node in the kernel: the proxy has allowed it,
 * and nothing has changed since. *ret_why: NONE, or there is no room for it, and so it does not. */
bool steer_direct_ask_node(const struct steer *steer, const struct steer_direct_view *view, uint64_t cookie,
                           const struct bruma_pod *pod, const struct endpoint *to,
                           enum bruma_long_way *ret_why);

#endif
