/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the agent must remember about pods beyond its own death: RUN_DIR/pods/UID.json, one small object a
 * pod, replaced by rename. Records of another boot are worthless (network namespace cookies start over) and
 * removed.
 */
#ifndef AGENT_ENROLL_STORE_H
#define AGENT_ENROLL_STORE_H

#include "agent/enroll/enrollment.h"

struct store {
    char directory[512];
    char boot_id[64];
    void (*changed)(
        void *data); /* called on the loop's thread once a record was written or removed; or NULL */
    void *data;
};

/* Makes the directory. boot_id NULL: the kernel's. 0, -ENAMETOOLONG, or -errno. */
int store_open(const char *run_dir, const char *boot_id, struct store *ret);
/* Writes the pod's record in place of the one before. 0, or -errno, logged: that one stays. */
int store_save(const struct store *store, const struct pod *pod);
/* 0, also if there is none; or -errno, logged. */
int store_remove(const struct store *store, const char *uid);
/* Adds a pod for each good record of this boot; bad ones are reported and removed. Returns how many. */
int store_load(const struct store *store, struct pods *pods);
/* The directory too, if it is empty then. */
void store_wipe(const struct store *store);

/* One record, for tests and fuzzing: text of len bytes becomes a pod. -EBADMSG, -ESTALE for another boot. */
int store_parse(const struct store *store, const char *text, size_t len, struct pods *pods, struct pod **ret);

/* A file of the run directory, replaced as a whole, for root alone. 0 or -errno. */
int store_write(const char *run_dir, const char *name, const char *text);

#endif
