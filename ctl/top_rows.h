/* SPDX-License-Identifier: Apache-2.0 */
/* Who uses the mesh, added up over nodes from two readings of each. Each proxy tells of its own pods: what
 * they open as the source, and what comes to them as the destination, so that a connection between two nodes
 * counts once at each end. */
#ifndef CTL_TOP_ROWS_H
#define CTL_TOP_ROWS_H

#include "ctl/metric_page.h"

/* What a row is: "workload" ("NAMESPACE/NAME"), "namespace", or "service" (its host name; by its clients in
 * the mesh). */
enum top_by { TOP_WORKLOAD, TOP_NAMESPACE, TOP_SERVICE, TOP_BYS };
/* What rows are ordered by, largest first: columns, or in and out together; or the name. */
enum top_sort { TOP_BYTES, TOP_IN, TOP_OUT, TOP_OPEN, TOP_OPENED, TOP_FAILED, TOP_NAME, TOP_SORTS };

struct top_row {
    char *name;
    double open;                    /* connections that are open */
    double opened, failed, in, out; /* a second; in and out are bytes, to it and from it */
    size_t nodes, last_node;        /* how many tell of it */
};

struct top_rows;

/* The one of that name; TOP_BYS: there is none. */
enum top_by top_by_from(const char *name);
/* The same; TOP_SORTS: there is none. */
enum top_sort top_sort_from(const char *name);
/* Its name, never NULL; a constant. */
const char *top_by_name(enum top_by by);

/* namespace: only rows of it; NULL: all; outlives them. The caller frees them (top_rows_free()); NULL
 * without memory. */
struct top_rows *top_rows_new(enum top_by by, const char *namespace);
/* NULL is none. */
void top_rows_free(struct top_rows **rows);
/* What node number `node` has said, so many seconds apart (more than 0), each node once. 0 or -ENOMEM. */
int top_rows_add(struct top_rows *rows, size_t node, const struct metric_page *before,
                 const struct metric_page *now, double seconds);
/* The largest first (of names the first), the rows' until the next call: *ret_len of them; NULL if there is
 * none. */
struct top_row *const *top_rows_sorted(struct top_rows *rows, enum top_sort sort, size_t *ret_len);

#endif
