/* SPDX-License-Identifier: Apache-2.0 */
/* A page of one node's proxy that is asked for again and again, over one connection for as long as that
 * lasts; then over a new one, to the pod that is the node's proxy by then. One thread at a time. */
#ifndef CTL_NODE_PAGE_H
#define CTL_NODE_PAGE_H

#include <cjson/cJSON.h>

#include "ctl/commands.h"
#include "ctl/page.h"

struct node_page {
    const struct ctl_options *options;
    const char *node; /* its name, the fleet's; "" of this machine */
    struct place place;
    cJSON *pods; /* texts of the place, if it has been looked for again; or NULL */
    struct page_session *session;
    bool broken; /* the last question had no answer */
};

/* Of place i of the fleet, or of this machine. options and stop (place.h) outlive it. */
void node_page_init(struct node_page *page, const struct ctl_options *options, size_t i, const bool *stop);
/* After a question without an answer: looks for the node's pods again. Whether another one than before will
 * be asked. */
bool node_page_mend(struct node_page *page);
/* GET as page_get(), of which any status but 200 is a failure. 0, and the caller frees body->data; or -errno
 * with words in error (PLACE_COMPLAINT_MAX), and body is not written. */
int node_page_get(struct node_page *page, const char *path, struct received_body *body, char *error);
/* Ends the connection, and frees what it holds, not the struct. */
void node_page_close(struct node_page *page);

#endif
