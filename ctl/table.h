/* SPDX-License-Identifier: Apache-2.0 */
/* Tables for people: columns as wide as their widest cell, two spaces between them. */
#ifndef CTL_TABLE_H
#define CTL_TABLE_H

#include <cjson/cJSON.h>
#include <stddef.h>
#include <stdio.h>

#define TABLE_COLUMNS_MAX 12 /* columns */

struct table;

/* headers: columns of them, kept by pointer. The caller frees it (table_free()); NULL without memory. */
struct table *table_new(const char *const *headers, size_t columns);
void table_free(struct table **table);
/* One row; cells are copied, NULL and "" become "-". Control characters become "?" (names come from
 * outside). */
void table_row(struct table *table, const char *const *cells);
/* How many rows it has. */
size_t table_rows(const struct table *table);
/* Prints the rows in the order they came, or the sentence where there are none. */
void table_print(const struct table *table, const char *empty, FILE *out);

/* In place of a table: JSON to stdout. Takes it; 0. */
int print_json(cJSON *json);

#endif
