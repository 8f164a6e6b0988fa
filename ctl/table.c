/* SPDX-License-Identifier: Apache-2.0 */
#include "ctl/table.h"

#include <cjson/cJSON.h>
#include <stdlib.h>
#include <string.h>

#include "ctl/safe_text.h"
#include "lib/cleanup.h"

struct table {
    const char *const *headers;
    size_t columns, rows;
    char **cells; /* rows * columns */
};

struct table *table_new(const char *const *headers, size_t columns)
{
    struct table *t = columns <= TABLE_COLUMNS_MAX ? calloc(1, sizeof(*t)) : NULL;

    if (t) {
        t->headers = headers;
        t->columns = columns;
    }
    return t;
}

void table_free(struct table **ptr)
{
    struct table *t = *ptr;

    if (!t)
        return;
    for (size_t i = 0; i < t->rows * t->columns; i++)
        free(t->cells[i]);
    free(t->cells);
    free(t);
    *ptr = NULL;
}

static char *clean_copy(const char *text)
{
    char *copy = strdup(text && *text ? text : "-");

    if (copy)
        text_clean(copy);
    return copy;
}

void table_row(struct table *t, const char *const *cells)
{
    char **grown = reallocarray(t->cells, (t->rows + 1) * t->columns, sizeof(*grown));

    if (!grown)
        return;
    t->cells = grown;
    for (size_t i = 0; i < t->columns; i++)
        grown[t->rows * t->columns + i] = clean_copy(cells[i]);
    t->rows++;
}

size_t table_rows(const struct table *t)
{
    return t->rows;
}

static void print_row(const struct table *t, const char *const *cells, const size_t *widths, FILE *out)
{
    for (size_t i = 0; i < t->columns; i++) {
        const char *cell = cells[i] ? cells[i] : "";

        /* the last column is not padded: no spaces at the end of a line */
        if (i + 1 < t->columns)
            fprintf(out, "%-*s  ", (int)widths[i], cell);
        else
            fprintf(out, "%s\n", cell);
    }
}

void table_print(const struct table *t, const char *empty, FILE *out)
{
    size_t widths[TABLE_COLUMNS_MAX] = {};

    if (!t->rows) {
        fprintf(out, "%s\n", empty);
        return;
    }
    for (size_t i = 0; i < t->columns; i++) {
        widths[i] = strlen(t->headers[i]);
        for (size_t r = 0; r < t->rows; r++) {
            const char *cell = t->cells[r * t->columns + i];
            size_t n = cell ? strlen(cell) : 0;

            if (n > widths[i])
                widths[i] = n;
        }
    }
    print_row(t, t->headers, widths, out);
    for (size_t r = 0; r < t->rows; r++)
        print_row(t, (const char *const *)&t->cells[r * t->columns], widths, out);
}

int print_json(cJSON *json)
{
    char *text = json_to_text(json, false);

    puts(text ? text : "null");
    free(text);
    cJSON_Delete(json);
    return 0;
}
