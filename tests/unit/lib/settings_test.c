/* SPDX-License-Identifier: Apache-2.0 */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "lib/settings.h"

struct config {
    const char *text;
    bool flag;
    unsigned long number, duration;
};

static const struct setting table[] = {
    {"text", "TEST_TEXT", SETTING_STRING, "default", "a text", offsetof(struct config, text), 0, 0},
    {"flag", "TEST_FLAG", SETTING_BOOL, "true", "a flag", offsetof(struct config, flag), 0, 0},
    {"number", "TEST_NUMBER", SETTING_NUMBER, "5", "a number", offsetof(struct config, number), 1, 10},
    {"duration", "TEST_DURATION", SETTING_DURATION, "10s", "a duration", offsetof(struct config, duration), 0,
     0},
};

static int load(struct config *c, char *error, int argc, char **argv, int *first)
{
    return settings_load(table, 4, c, argc, argv, first, error, 200);
}

Test(settings, defaults_environment_and_command_line)
{
    char *argv[] = {"program", "--number", "7", "--text=from argv", "rest"};
    char error[200];
    struct config c = {};
    int first;

    setenv("TEST_FLAG", "false", 1);
    setenv("TEST_TEXT", "from environment", 1);
    cr_assert(load(&c, error, 5, argv, &first) == 0);
    cr_expect(strcmp(c.text, "from argv") == 0);
    cr_expect(!c.flag);
    cr_expect(c.number == 7 && c.duration == 10000);
    cr_expect(first == 4);
}

Test(settings, bad_values_name_the_setting_and_the_value)
{
    static char *const bad[][2] = {{"--flag=yes", "flag"},
                                   {"--number=x", "number"},
                                   {"--number=0", "number"},
                                   {"--number=11", "number"},
                                   {"--duration=5x", "duration"},
                                   {"--duration=", "duration"},
                                   {"--what=1", "--what"},
                                   {"--text", "text"},
                                   {"--number=99999999999999999999", "number"}};
    struct config c;
    char error[200];
    int first;

    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        char *argv[] = {"program", bad[i][0]};

        cr_expect(load(&c, error, 2, argv, &first) == -EINVAL, "%s", bad[i][0]);
        cr_expect(strstr(error, bad[i][1]) != NULL, "%s: %s", bad[i][0], error);
    }
}

Test(settings, durations)
{
    unsigned long ms;

    cr_expect(duration_parse("1h30m", &ms) == 0 && ms == 5400000);
    cr_expect(duration_parse("250ms", &ms) == 0 && ms == 250);
    cr_expect(duration_parse("7", &ms) == 0 && ms == 7000);
    cr_expect(duration_parse("1h30", &ms) == -EINVAL);
    cr_expect(duration_parse("-1s", &ms) == -EINVAL);
}
