/* SPDX-License-Identifier: Apache-2.0 */
/* What entering (enroll.c) and leaving (enroll_leave.c) have in common. */
#ifndef AGENT_ENROLL_ENROLL_PRIVATE_H
#define AGENT_ENROLL_ENROLL_PRIVATE_H

#include "agent/enroll/enroll.h"
#include "agent/enroll/member.h"

/* ---- enroll_steps.c ---- */

/* Fills error; returns r. */
__attribute__((format(printf, 4, 5))) int enroll_fail(struct steer_error *error, int r,
                                                      enum bruma_reason reason, const char *format, ...);
/* And its record. */
void enroll_set_state(struct agent *agent, struct pod *pod, enum pod_state state);
/* Failures on the way out are reported and do not stop it: what is left is less to undo. */
void enroll_note(const struct pod *pod, const char *step, int r, const struct steer_error *error);
/* Stops capturing, both ways. */
void enroll_undo_capture(struct agent *agent, struct pod *pod);
/* Takes away what is left in the pod's namespace; netns_fd: -1 if that is gone. */
void enroll_clean(struct agent *agent, struct pod *pod, int netns_fd);
/* Tells who waits for the enrollment of its end, once. */
void enroll_end(struct pod *pod, int r, const struct steer_error *error);

/* ---- enroll_prepare.c ---- */

/* Opens the pod's namespace and listeners and tells steering of it; nothing is captured yet. *ret_program_fd
 * is the caller's. 0, or -errno with the reason in error: what was opened stays open. */
int enroll_prepare(struct agent *agent, struct pod *pod, int *ret_program_fd, struct steer_error *error);
/* Takes over what the source says otherwise than before of a pod that stays in the mesh. */
void enroll_update(struct agent *agent, struct pod *pod);

/* ---- enroll.c ---- */

/* Before the pod's timer is set, or it is followed. */
void enroll_bind(struct agent *agent, struct pod *pod);

/* ---- enroll_leave.c ---- */

/* POD_ENROLLED to POD_LEAVING: announced, outbound is stopped, the grace begins. */
void enroll_leave(struct agent *agent, struct pod *pod, const char *why);
/* Back to POD_ENROLLED: outbound was stopped and nothing else yet. */
void enroll_come_back(struct agent *agent, struct pod *pod);
/* To POD_DRAINING, or at once to POD_OUTSIDE if nothing lives there. */
void enroll_drain(struct agent *agent, struct pod *pod);

#endif
