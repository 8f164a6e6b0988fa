/* SPDX-License-Identifier: Apache-2.0 */
/* What is told of a connection, field by field, whatever form it is told in (contract section 8.3). */
#ifndef PROXY_TELEMETRY_ACCESS_FIELDS_H
#define PROXY_TELEMETRY_ACCESS_FIELDS_H

#include "proxy/telemetry/access_log.h"

#define ACCESS_VALUE_MAX  512 /* bytes of a text that are shown */
#define ACCESS_FIELDS_MAX 24  /* of one line */

enum access_kind {
    ACCESS_TEXT,      /* of the control plane, a certificate or a peer: any bytes */
    ACCESS_AUTHORITY, /* the same, which usually looks like HOST:PORT */
    ACCESS_WORD,      /* one of our own: plain ASCII */
    ACCESS_ADDRESS,
    ACCESS_NUMBER,
    ACCESS_MILLISECONDS,
    ACCESS_ERROR, /* text: any bytes; reason: its name */
};

/* One field's: what its kind needs. */
struct access_value {
    enum access_kind kind;
    const char *text;
    const struct endpoint *address;
    uint64_t number;
    const char *reason;
};

/* Called for each field in their order, on the thread of access_fields()'s caller. key: a static text; value:
 * for the time of the call. */
typedef void (*access_put)(void *data, const char *key, const struct access_value *value);

/* Puts all fields of the line. */
void access_fields(const struct access_line *line, access_put put, void *data);

/* "connection opened" and so on: a static text, never NULL. */
const char *access_message(enum access_event event);

#endif
