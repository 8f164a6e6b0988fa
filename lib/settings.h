/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Settings of a program, from one table: environment variable, command line (--name value or --name=value,
 * which wins), default, help. The same table prints --help and the page of settings in docs/.
 */
#ifndef LIB_SETTINGS_H
#define LIB_SETTINGS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

/* What the field is. */
enum setting_type {
    SETTING_STRING,   /* const char * */
    SETTING_BOOL,     /* bool: only "true" and "false" */
    SETTING_NUMBER,   /* unsigned long, decimal */
    SETTING_DURATION, /* unsigned long, milliseconds; as duration_parse() */
};

/* One entry of a program's table, which is constant. */
struct setting {
    const char *name; /* on the command line, without the dashes */
    const char *env;
    enum setting_type type;
    const char *default_text; /* NULL: unset (strings stay NULL) */
    const char *help;
    size_t offset;                  /* of the field in the program's struct */
    unsigned long minimum, maximum; /* of numbers and durations; maximum 0: no limit */
};

/*
 * Fills *settings. Strings point into argv, the environment or the table, or are allocated for the life of
 * the program. Arguments that are not options stop the parsing; *ret_first is the index of the first one. Bad
 * input: a sentence that names the setting and the value is written to error, -EINVAL, and settings is partly
 * filled.
 */
int settings_load(const struct setting *table, size_t count, void *settings, int argc, char **argv,
                  int *ret_first, char *error, size_t error_size);

/* The options, a paragraph each, for --help. */
void settings_help(const struct setting *table, size_t count, FILE *out);
/* The table as Markdown, for docs/settings.md. */
void settings_markdown(const struct setting *table, size_t count, FILE *out);

/* "10s", "5m", "1h30m", "250ms"; a bare number is seconds. 0, -EINVAL, or -ERANGE if it is too long. */
int duration_parse(const char *text, unsigned long *ret_milliseconds);

#endif
