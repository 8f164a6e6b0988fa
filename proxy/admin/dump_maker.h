/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Makes config dumps, one at a time: pods and connections are noted down by those who have them, the mesh
 * state is referenced, and what takes long (putting it in order) is done on a thread of its own. Control
 * thread.
 */
#ifndef PROXY_ADMIN_DUMP_MAKER_H
#define PROXY_ADMIN_DUMP_MAKER_H

struct admin;
struct config_dump_source;
struct proxy;

/* Answers by admin_dump_done(). While many dumps are being read the newest of them serves once more, which
 * bounds what they hold. */
void dump_make(struct proxy *proxy, const struct config_dump_source *source, struct admin *admin,
               void *token);
/* At the end, the admin pages are closed and the workers stopped: waits for the thread. */
void dump_stop(struct proxy *proxy);

#endif
