/* SPDX-License-Identifier: Apache-2.0 */
/* Pages that agent and proxy serve over HTTP: the proxy's by its socket on this machine, both through an API
 * server. One thread at a time. */
#ifndef CTL_PAGE_H
#define CTL_PAGE_H

#include "ctl/http_body.h"
#include "ctl/place.h"

enum page_whose { PAGE_AGENT, PAGE_PROXY };

struct page_session;

/* A connection for any number of requests. 0, or -errno with words in error (PLACE_COMPLAINT_MAX). place
 * outlives it. */
int page_open(const struct place *place, enum page_whose whose, struct page_session **ret, char *error);
/* GET of a path with its query, encoded. 0: *ret_status and body are there, whatever the status is, and the
 * caller frees body->data; -EIO or -ENOMEM: there was no answer, and the session is of no more use. */
int page_get(struct page_session *session, const char *path, struct received_body *body, long *ret_status,
             char *error);
/* NULL is none. */
void page_close(struct page_session **session);

#endif
