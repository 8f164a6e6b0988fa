/* SPDX-License-Identifier: Apache-2.0 */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "ctl/table.h"

static const char *const headers[] = {"NAME", "VALUE", "NOTE"};

static char *printed(struct table *t)
{
    char *text = NULL;
    size_t len;
    FILE *f = open_memstream(&text, &len);

    table_print(t, "nothing here", f);
    fclose(f);
    return text;
}

Test(table, columns_are_as_wide_as_their_widest_cell)
{
    struct table *t = table_new(headers, 3);
    char *text;

    table_row(t, (const char *const[]){"a", "1", "x"});
    table_row(t, (const char *const[]){"longer name", "", NULL});
    text = printed(t);
    cr_expect_str_eq(text, "NAME         VALUE  NOTE\n"
                           "a            1      x\n"
                           "longer name  -      -\n");
    cr_expect(table_rows(t) == 2);
    free(text);
    table_free(&t);
    cr_expect(t == NULL);
}

Test(table, without_rows_it_says_so)
{
    struct table *t = table_new(headers, 3);
    char *text = printed(t);

    cr_expect_str_eq(text, "nothing here\n");
    free(text);
    table_free(&t);
}

Test(table, control_characters_of_names_do_not_reach_the_terminal)
{
    struct table *t = table_new(headers, 3);
    char *text;

    table_row(t, (const char *const[]){"\033[2Jevil", "a\nb", "\x7f"});
    text = printed(t);
    cr_expect(!strchr(text, '\033') && strstr(text, "?[2Jevil") && strstr(text, "a?b"));
    free(text);
    table_free(&t);
}
