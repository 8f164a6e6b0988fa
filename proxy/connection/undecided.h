/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Connections that are accepted, and whose other end is not there yet: for a policy, a certificate, an
 * address, a connect, an answer they have to wait. Nothing of their bytes has been read, so that whoever has
 * the socket can decide upon it as if it had accepted it: what was begun for it is given up. They go to
 * another process as that (bruma/handover.h, enum bruma_undecided_field), or begin again here. A worker's own
 * thread, at the end of a turn.
 */
#ifndef PROXY_CONNECTION_UNDECIDED_H
#define PROXY_CONNECTION_UNDECIDED_H

#include "proxy/wire/wire.h"
#include "proxy/worker/worker.h"

/* One that has been let go: nobody's but the owner's of this. */
struct undecided;

/* One of the worker's, of pods whose connections go (worker_pod.keeps_undecided). late: also of those whose
 * other end is being connected, which only need a moment mostly. NULL: there is none, or no memory. */
struct undecided *undecided_let_go(struct worker *w, bool late);
/* How many the worker has that are in no tunnel, and of one of them why it stays, if there is any: valid for
 * ever. */
unsigned undecided_count(struct worker *w, const char **ret_why);

/* As a field of a unit, with its socket in *ret_fd, which stays its own. */
void undecided_write(const struct undecided *undecided, struct wire_writer *unit, int *ret_fd);
/* len bytes of data: of the field. Takes the socket, unless it fails. 0, or -errno with why in error. */
int undecided_read(struct worker *w, const uint8_t *data, size_t len, int fds[], size_t fds_len,
                   struct undecided **ret, char *error, size_t error_size);

/* It is the worker's again, or another one's, which decides; one of a pod that has gone meanwhile ends. It is
 * taken. */
void undecided_begin(struct worker *w, struct undecided *undecided);
/* The same where it was not taken by another process: nor will others of its pod be. */
void undecided_stays(struct worker *w, struct undecided *undecided);
/* It is another process's: nothing of its socket is changed by its end here. It is taken. */
void undecided_forget(struct undecided *undecided);

#endif
