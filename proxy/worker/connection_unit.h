/* SPDX-License-Identifier: Apache-2.0 */
/* A connection as a part of what a proxy hands over to its successor: bruma/handover.h, enum
 * bruma_connection_field and bruma_flow_field. A worker's own thread. */
#ifndef PROXY_WORKER_CONNECTION_UNIT_H
#define PROXY_WORKER_CONNECTION_UNIT_H

#include "proxy/wire/wire.h"
#include "proxy/worker/connection.h"

/* Appends it as one field. */
void connection_write(struct wire_writer *writer, uint32_t field, const struct connection *c);
/* It goes on in another process: it leaves the lists and counts of this one without a line in the log. The
 * memory stays with the caller. */
void connection_forget(struct connection *c);

/* What is known of one that is to be decided anew. */
struct connection_past {
    uint64_t opened; /* as in struct flow */
    bool counted;
};

/* The same of one that nobody waits for: it is none any more, and is to be begun anew, here or in another
 * process, with what is in ret. */
void connection_undecide(struct connection *c, struct connection_past *ret);
/* What telemetry was told of it does not count: it is to be told again, and remembers what it was. */
void connection_unopen(struct connection *c);
/* One that was just begun anew has this behind it. */
void connection_remember(struct connection *c, const struct connection_past *past);

/* What was read of one, and is not in force: the worker's lists and counts do not know it. */
struct connection_record {
    struct pod *pod;     /* referenced */
    struct connection c; /* with workloads, service and strings; in no list, wp NULL */
    bool open;           /* to telemetry */
};

/* len bytes of data: of such a field. 0 and ret is the caller's, or -errno with why in error and nothing is:
 * -EBADMSG it cannot be understood, -ENOENT the pod is not served here, -EAGAIN it is not known yet what it
 * needs here, -ENOMEM. */
int connection_read(struct worker *w, const uint8_t *data, size_t len, struct connection_record *ret,
                    char *error, size_t error_size);
/* Nothing comes of it. */
void connection_record_clear(struct connection_record *record);
/* It is one of the pod's from here on, at c, as after connection_init(), and open to telemetry if it was; the
 * record is empty then. abort: as there. False: the pod is not served any more, and nothing has changed. */
bool connection_begin(struct connection *c, struct worker *w, struct connection_record *record,
                      void (*abort)(struct connection *, enum bruma_reason, const char *));

/* The pod with that uid and that cookie of its network namespace, valid for this turn; NULL: it is not served
 * here. */
struct worker_pod *unit_pod(struct worker *w, const char *uid, uint64_t cookie);
/* Appends the endpoint as 18 bytes. */
void endpoint_write(struct wire_writer *writer, uint32_t field, const struct endpoint *endpoint);
/* Reads such a field. 0, or -EBADMSG and ret is not written. */
int endpoint_read(const struct wire_field *field, struct endpoint *ret);
/* A text of a field, malloc()ed for the caller; NULL: no memory, or there is a NUL in it. */
char *text_read(const struct wire_field *field);

/* Whether a field that is not known makes the unit one that cannot be taken. */
static inline bool unit_field_is_needed(const struct wire_field *field)
{
    return field->number % 2 == 0;
}

#endif
