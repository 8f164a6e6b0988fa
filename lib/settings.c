/* SPDX-License-Identifier: Apache-2.0 */
#include "lib/settings.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

static int number_parse(const char **at, unsigned long *ret)
{
    unsigned long n = 0;

    if (**at < '0' || **at > '9')
        return -EINVAL;
    for (; **at >= '0' && **at <= '9'; (*at)++) {
        unsigned long digit = (unsigned long)(**at - '0');

        if (n > (ULONG_MAX - digit) / 10)
            return -ERANGE;
        n = n * 10 + digit;
    }
    *ret = n;
    return 0;
}

int duration_parse(const char *text, unsigned long *ret_milliseconds)
{
    static const struct {
        const char *unit;
        unsigned long milliseconds;
    } units[] = {{"ms", 1}, {"h", 3600000}, {"m", 60000}, {"s", 1000}};
    unsigned long total = 0, n;

    if (!*text)
        return -EINVAL;
    for (size_t parts = 0; *text; parts++) {
        size_t i;

        if (number_parse(&text, &n) < 0)
            return -EINVAL;
        if (!*text && !parts) {
            if (n > ULONG_MAX / 1000)
                return -ERANGE;
            *ret_milliseconds = n * 1000;
            return 0;
        }
        for (i = 0; i < sizeof(units) / sizeof(units[0]); i++) {
            if (!strncmp(text, units[i].unit, strlen(units[i].unit)))
                break;
        }
        if (i == sizeof(units) / sizeof(units[0]))
            return -EINVAL;
        if (n > (ULONG_MAX - total) / units[i].milliseconds)
            return -ERANGE;
        total += n * units[i].milliseconds;
        text += strlen(units[i].unit);
    }
    *ret_milliseconds = total;
    return 0;
}

static int store(const struct setting *s, void *settings, const char *text, const char *origin, char *error,
                 size_t error_size)
{
    char *field = (char *)settings + s->offset;
    const char *expected = NULL;
    unsigned long n = 0;

    switch (s->type) {
    case SETTING_STRING:
        memcpy(field, &text, sizeof(text));
        return 0;
    case SETTING_BOOL:
        if (!strcmp(text, "true") || !strcmp(text, "false")) {
            *(bool *)field = *text == 't';
            return 0;
        }
        expected = "true or false";
        break;
    case SETTING_NUMBER: {
        const char *at = text;

        if (number_parse(&at, &n) < 0 || *at)
            expected = "a whole number";
        break;
    }
    case SETTING_DURATION:
        if (duration_parse(text, &n) < 0)
            expected = "a duration such as 10s, 5m or 250ms";
        break;
    }
    if (expected) {
        snprintf(error, error_size, "%s: \"%.100s\" is not %s", origin, text, expected);
        return -EINVAL;
    }
    if (n < s->minimum || (s->maximum && n > s->maximum)) {
        snprintf(error, error_size, "%s: %.100s is out of range (%lu to %lu)", origin, text, s->minimum,
                 s->maximum);
        return -EINVAL;
    }
    memcpy(field, &n, sizeof(n));
    return 0;
}

static const struct setting *find(const struct setting *table, size_t count, const char *name, size_t len)
{
    for (size_t i = 0; i < count; i++) {
        if (strlen(table[i].name) == len && !strncmp(table[i].name, name, len))
            return &table[i];
    }
    return NULL;
}

int settings_load(const struct setting *table, size_t count, void *settings, int argc, char **argv,
                  int *ret_first, char *error, size_t error_size)
{
    int i, r;

    for (size_t k = 0; k < count; k++) {
        const char *value = table[k].env ? getenv(table[k].env) : NULL;

        if (!value && !table[k].default_text)
            continue;
        r = store(&table[k], settings, value ? value : table[k].default_text,
                  value ? table[k].env : table[k].name, error, error_size);
        if (r < 0)
            return r;
    }
    for (i = 1; i < argc && !strncmp(argv[i], "--", 2); i++) {
        const char *name = argv[i] + 2, *value = strchr(name, '=');
        size_t len = value ? (size_t)(value - name) : strlen(name);
        const struct setting *s = find(table, count, name, len);

        if (!len) {
            i++;
            break;
        }
        if (!s) {
            snprintf(error, error_size, "unknown option %.100s; see --help", argv[i]);
            return -EINVAL;
        }
        if (value)
            value++;
        else if (i + 1 < argc)
            value = argv[++i];
        if (!value) {
            snprintf(error, error_size, "option --%s needs a value", s->name);
            return -EINVAL;
        }
        r = store(s, settings, value, s->name, error, error_size);
        if (r < 0)
            return r;
    }
    *ret_first = i;
    return 0;
}

void settings_help(const struct setting *table, size_t count, FILE *out)
{
    for (size_t i = 0; i < count; i++) {
        const struct setting *s = &table[i];

        fprintf(out, "  --%s VALUE\n      %s\n", s->name, s->help);
        fprintf(out, "      default: %s", s->default_text && *s->default_text ? s->default_text : "none");
        if (s->env)
            fprintf(out, "; environment: %s", s->env);
        fputc('\n', out);
    }
}

void settings_markdown(const struct setting *table, size_t count, FILE *out)
{
    static const char *const types[] = {"text", "true or false", "number", "duration"};

    fprintf(out, "| option | environment | kind | default | meaning |\n|---|---|---|---|---|\n");
    for (size_t i = 0; i < count; i++) {
        const struct setting *s = &table[i];
        const char *def = s->default_text && *s->default_text ? s->default_text : "none";

        fprintf(out, "| `--%s` | %s%s%s | %s | `%s` | %s |\n", s->name, s->env ? "`" : "",
                s->env ? s->env : "-", s->env ? "`" : "", types[s->type], def, s->help);
    }
}
