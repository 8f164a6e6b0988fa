/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The numbers that a pod's rules and routes have in common with those of others: the routing table, and two
 * rule priorities one after the other. They are looked at before they are taken: a table with somebody else's
 * routes, or one that somebody else's rule names, is not used, and the rules stand before all others but that
 * of the local table. What is ours carries BRUMA_ROUTE_PROTOCOL, by which it is found again.
 *
 * All functions want the calling thread in the pod, and a netlink socket there that never blocks.
 */
#ifndef AGENT_STEER_POD_NUMBERS_H
#define AGENT_STEER_POD_NUMBERS_H

#include <libmnl/libmnl.h>
#include <stdbool.h>
#include <stdint.h>

#include "agent/steer/steer.h"

struct pod_numbers {
    uint32_t table;
    uint32_t preference; /* of the rule that leads to lo; the one that prohibits has the next */
    bool dns;            /* there is a rule for DNS queries too, with the preference of the first */
};

/* What is ours in one family. */
struct pod_numbers_seen {
    struct pod_numbers numbers;
    bool to_lo, prohibit; /* the rules are there */
    bool in_front;        /* of everybody else's */
    bool table_shared;    /* somebody else has routes there, or a rule that names it */
};

/* 0, also if nothing is there; -errno, -E2BIG: more rules or routes than are looked at. */
int pod_numbers_see(struct mnl_socket *netlink, int family, struct pod_numbers_seen *ret);

/* Those that are ours already, where nobody is in their way, or free ones. 0, -EBUSY with NUMBER_TAKEN
 * if there are none, or -errno as pod_numbers_see(), without *error. */
int pod_numbers_choose(struct mnl_socket *netlink, int family, struct pod_numbers *ret,
                       struct steer_error *error);

/* Removes what is ours and has other numbers; NULL: all that is ours. What others have stays. 0, or
 * -errno of the first that failed: the rest is tried all the same. */
int pod_numbers_remove(struct mnl_socket *netlink, int family, const struct pod_numbers *except);

/* Appends to a rule's message what makes it one for DNS queries. */
void pod_numbers_put_dns(struct nlmsghdr *message);

/* 0, -EBUSY with NUMBER_TAKEN if somebody else's rule is for packets with our mark, or -errno. */
int pod_numbers_check_mark(struct mnl_socket *netlink, int family, struct steer_error *error);

#endif
