/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Moving pods into the mesh and out of it (docs/architecture.md, "Entering and leaving"). Each move is a
 * transaction: what fails is undone in reverse order and reported by name, and a pod is never left steered to
 * nobody.
 *
 *   in    open listeners, prepare, tell the proxy and wait for its answer, attach, commit, verify, announce
 *   out   announce, stop outbound, wait the grace, detach, drain the proxy, clean once nothing lives there
 */
#ifndef AGENT_ENROLL_ENROLL_H
#define AGENT_ENROLL_ENROLL_H

#include "agent/agent.h"

#define ENROLL_ADDRESS_WAIT 2500 /* milliseconds; duplicate address detection takes one to two seconds */

/* Called once, on the loop's thread: ends an enrollment that waited for someone. r: 0, or -errno with the
 * reason in error. */
typedef void (*pod_enrolled_fn)(void *data, struct pod *pod, int r, const struct steer_error *error);

/* A pod that was heard of just now, in state POD_OUTSIDE and without a sandbox; see enroll_pod_new(). 0 or
 * -ENOMEM. */
int enroll_pod_add(struct agent *agent, const char *uid, const char *namespace, const char *name,
                   struct pod **ret);

/* The labels say that the pod belongs to the mesh; *ret_why says how that was decided. Only when
 * source_ready(). */
bool enroll_wanted(const struct agent *agent, const struct pod *pod, const char **ret_why);

/*
 * Prepares a pod that is outside or draining. plugin: the CNI plugin attaches *ret_program_fd (the caller
 * closes it) and enroll_attached() or enroll_abort() follows; else the agent attaches by itself. done may be
 * NULL; it is called once, perhaps before this returns. An error here means that nothing is left behind and
 * done is not called.
 */
int enroll_begin(struct agent *agent, struct pod *pod, bool plugin, pod_enrolled_fn done, void *data,
                 int *ret_program_fd, struct steer_error *error);
/* What enroll_begin() or watchdog_verify() failed for may pass within ENROLL_ADDRESS_WAIT of its first time:
 * the pod's address is new to its device. Who gets true tries again once something has changed, or soon. */
bool enroll_address_wait(struct agent *agent, struct pod *pod, const struct steer_error *error);
/* The address can be used: another one that is new is waited for afresh. */
void enroll_address_settled(struct pod *pod);
/* The plugin has attached the program: goes on. Nothing where no plugin is waited for. */
void enroll_attached(struct agent *agent, struct pod *pod);
/* Rolls an enrollment back that is under way; done is called with -ECANCELED. A pod whose enrollment by the
 * plugin failed, here or elsewhere, is removed and freed once done has returned. */
void enroll_abort(struct agent *agent, struct pod *pod, enum bruma_reason reason, const char *text);

/* Whoever waited for the enrollment's end does not any more: done is not called. */
void enroll_forget_waiter(struct pod *pod);

/* Moves the pod where the labels want it. */
void enroll_reconcile(struct agent *agent, struct pod *pod);
/* All pods, and at once those that could not be enrolled before. */
void enroll_reconcile_all(struct agent *agent);

/* The pod is gone, or its record is: nothing of it is left, and pod is freed. */
void enroll_remove(struct agent *agent, struct pod *pod, const char *why);

/* Answers of proxies, see struct proxies_events; all of them on the loop's thread. */
void enroll_answered(struct agent *agent, struct pod *pod, enum bruma_reason reason, const char *error);
/* 0, or -errno with *error. The descriptors stay the caller's. */
int enroll_listeners_opened(struct agent *agent, struct pod *pod, const int listeners[BRUMA_LISTENER_COUNT],
                            struct steer_error *error);
/* Nothing of it lives any more, as far as proxies know: it leaves, once its time is over. */
void enroll_drained(struct agent *agent, struct pod *pod);
/* A proxy has disconnected: nobody waits for its answers. */
void enroll_proxy_gone(struct agent *agent);

/* A pod that was found in this state after a restart goes on from there. Its netns_fd is open. One that was
 * being enrolled is rolled back and freed. */
void enroll_resume(struct agent *agent, struct pod *pod);

/* Fills ret with what steering is told about the pod; its descriptors stay the pod's. */
void enroll_describe(const struct agent *agent, const struct pod *pod, struct steer_pod *ret);
/* Tells the control plane what the pod is now. */
void enroll_announce(struct agent *agent, struct pod *pod);

#endif
