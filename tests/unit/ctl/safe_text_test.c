/* SPDX-License-Identifier: Apache-2.0 */
#include "ctl/safe_text.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

Test(safe_text, what_drives_a_terminal_is_replaced)
{
    static const char *const cases[][2] = {
        {"plain text", "plain text"},
        {"\033[2J\033]0;owned\a", "?[2J?]0;owned?"},
        {"a\nb\tc\r", "a?b?c?"},
        {"\x7f", "?"},
        {"\xc2\x9b"
         "2J",
         "?2J"}, /* CSI of C1 */
        {"\x9b"
         "2J",
         "?2J"}, /* the same in eight bits: no UTF-8 */
        {"\xe2\x80\xae"
         "evil\xe2\x81\xa9",
         "?evil?"},            /* right to left */
        {"\xe2\x80\xa8", "?"}, /* line separator */
        {"gr\xc3\xbc\xc3\x9f \xe2\x80\xa6 \xf0\x9f\x90\xa2",
         "gr\xc3\xbc\xc3\x9f \xe2\x80\xa6 \xf0\x9f\x90\xa2"},
        {"cut \xe2\x80", "cut ??"},
        {"", ""},
    };

    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        char text[64];

        strcpy(text, cases[i][0]);
        text_clean(text);
        cr_expect_str_eq(text, cases[i][1], "case %zu: %s", i, text);
    }
}

Test(safe_text, of_json_texts_and_keys)
{
    cJSON *json = cJSON_Parse("{\"\\u001bk\": [\"\\u009bx\", {\"y\": \"a\\nb\"}], \"n\": 5}");
    char *text;

    json_clean(NULL);
    json_clean(json);
    text = json_to_text(json, true);
    cr_expect_str_eq(text, "{\"?k\":[\"?x\",{\"y\":\"a?b\"}],\"n\":5}");
    free(text);
    cJSON_Delete(json);
}

Test(safe_text, json_is_the_same_value_and_harmless)
{
    cJSON *json = cJSON_Parse("{\"k\": \"\\u001b[2J \xc2\x9b \x7f \xe2\x80\xae gr\xc3\xbc\xc3\x9f\"}"),
          *again;
    char *text = json_to_text(json, false);

    cr_expect(strstr(text, "\\u001b[2J \\u009b \\u007f \\u202e gr\xc3\xbc\xc3\x9f") != NULL, "%s", text);
    again = cJSON_Parse(text);
    cr_expect(cJSON_Compare(json, again, true));
    cJSON_Delete(again);
    free(text);
    cJSON_Delete(json);
    json = cJSON_Parse("[\"\x9b\"]");
    text = json_to_text(json, true);
    cr_expect_str_eq(text, "[\"\\ufffd\"]");
    free(text);
    cJSON_Delete(json);
}
