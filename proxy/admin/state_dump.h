/* SPDX-License-Identifier: Apache-2.0 */
/* The mesh state in the config dump. */
#ifndef PROXY_ADMIN_STATE_DUMP_H
#define PROXY_ADMIN_STATE_DUMP_H

#include <cjson/cJSON.h>
#include <stdio.h>

#include "proxy/state/state_objects.h"

/*
 * What the state has at a moment, by references, so that it can be written out in pieces while the state goes
 * on: 8 bytes an object, and objects that are replaced meanwhile live on. Policies are named alone, and one
 * that has gone meanwhile is left out; the endpoints of a service are those of when its turn comes. Writer's
 * thread but where said.
 */
struct state_snapshot;

/* 0 or -ENOMEM. */
int state_snapshot_take(struct state *state, struct state_snapshot **ret);
void state_snapshot_sort(struct state_snapshot *snapshot); /* any thread, before the first reader */
void state_snapshot_free(struct state_snapshot **snapshot);

struct state_reader;

/* The snapshot outlives the reader. 0 or -ENOMEM. */
int state_reader_new(const struct state_snapshot *snapshot, struct state_reader **ret);
void state_reader_free(struct state_reader **reader);
/* Appends a piece of "workloads":[...],"services":[...],"policies":[...],"stagedServices":{...}
 * (contract 9.3). 1: there is more; 0: that was all; -ENOMEM. */
int state_reader_next(struct state_reader *reader, FILE *out);

/* Each appends one of them; of a service all but its endpoints, of an endpoint its key and value. False
 * without memory. */
bool workload_dump(const struct workload_full *workload, cJSON *array);
bool service_dump(const struct service_full *service, cJSON *array);
bool endpoint_dump(const struct workload_service *membership, cJSON *object);
bool policy_dump(const struct policy *policy, cJSON *array);

#endif
