/* SPDX-License-Identifier: Apache-2.0 */
/* L4 authorization: contract section 6. Reader side of state.h. */
#ifndef PROXY_ROUTE_POLICY_H
#define PROXY_ROUTE_POLICY_H

#include "proxy/state/state.h"

struct policy_request {
    struct endpoint source, destination;
    const char *identity; /* whole SPIFFE URI of the peer, NULL without mutual TLS */
};

/* What the dry-run policies would have made of a connection, had they been in force. */
enum policy_dry_run {
    POLICY_DRY_RUN_NONE,      /* nothing else than was decided, as far as they say */
    POLICY_DRY_RUN_ALLOWED,   /* one of the ALLOW policies matches */
    POLICY_DRY_RUN_DENIED,    /* one of the DENY policies matches */
    POLICY_DRY_RUN_UNMATCHED, /* there are ALLOW policies, all of them dry-run, and none matches */
    POLICY_DRY_RUN_COUNT
};

struct policy_verdict {
    bool allowed;
    bool unknown;     /* a policy that the workload names has not arrived, and the others do not deny */
    char policy[192]; /* "namespace/name" that denied; "" if allowed, or if ALLOW policies exist and none
                         matched */
    char text[256];   /* for logs: "denied by policy ns/name", "ALLOW policies exist, none matched" ... */
    enum policy_dry_run dry_run;
    char dry_run_policy[192]; /* "namespace/name" that matched; "" if none did */
};

/* What dry_run says, for logs and users: "denied", "allowed" or "unmatched", "" for NONE. Static, never
 * NULL. */
const char *policy_dry_run_name(enum policy_dry_run dry_run);
/* The same as words: "one would deny the connection"; "" for NONE. Static, never NULL. */
const char *policy_dry_run_text(enum policy_dry_run dry_run);

/* Fills ret whole. local: the workload that the connection goes to. */
void policy_check(const struct state *state, const struct workload *local,
                  const struct policy_request *request, struct policy_verdict *ret);

/* What the policies of a workload say of connections without identity, whoever makes them, and to whatever
 * port: the kernel can give such an answer. */
enum policy_answer {
    POLICY_ANSWER_ALLOWED, /* all of them */
    POLICY_ANSWER_DENIED,  /* all of them */
    POLICY_ANSWER_DEPENDS, /* on addresses or the port */
    POLICY_ANSWER_MISSING, /* a policy that the workload names has not arrived */
    POLICY_ANSWER_DRY_RUN, /* there is a dry-run policy, which wants to see each connection */
};

struct policy_anyone {
    enum policy_answer answer;
    char policy[192]; /* "namespace/name" of the one that made the answer; "": none alone has */
};

/* Fills ret whole. ALLOWED and DENIED are what policy_check() says of every request without identity; of some
 * for which that holds too the answer is DEPENDS. local: as above. */
void policy_check_anyone(const struct state *state, const struct workload *local, struct policy_anyone *ret);

/* A number for the policies that hold for the workload: another one once one of them has changed, come or
 * gone, as far as the workload is the same. local: as above. */
uint64_t policy_inputs(const struct state *state, const struct workload *local);

#endif
