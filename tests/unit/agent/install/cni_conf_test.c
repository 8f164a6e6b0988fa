/* SPDX-License-Identifier: Apache-2.0 */
#include <criterion/criterion.h>
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent/install/cni_conf.h"

#define ENTRY "{\"type\":\"bruma-cni\",\"run_dir\":\"/run/bruma\"}"

static char why[100];

static char *added(const char *text)
{
    char *out = NULL;
    size_t len;

    cr_assert_eq(cni_conf_add(text, strlen(text), ENTRY, &out, &len), 0, "%s", text);
    cr_assert_eq(strlen(out), len);
    cr_expect(cni_conf_has(out, len, ENTRY), "%s", out);
    return out;
}

/* In and out again: every byte as it was. */
static void round_trip(const char *text)
{
    char *with = added(text), *without = NULL;
    size_t len;

    cr_assert_eq(cni_conf_remove(with, strlen(with), &without, &len), 1, "%s", with);
    cr_expect_str_eq(without, text);
    free(with);
    free(without);
}

Test(cni_conf, entry_goes_in_last_and_out_without_a_trace)
{
    char *out;

    round_trip("{\"plugins\":[{\"type\":\"bridge\"}]}");
    round_trip("{\n  \"cniVersion\": \"1.0.0\",\n  \"name\": \"n\",\n  \"plugins\": [\n    {\n      "
               "\"type\": \"ptp\",\n"
               "      \"x\": 1.50e3\n    },\n    {\"type\": \"portmap\", \"y\": \"]}\\\"\"}\n  ]\n}\n");
    round_trip(
        "{\"plugins\" : [ {\"type\":\"a\"} ,{\"type\":\"b\",\"plugins\":[]}\t]\r\n, \"name\":\"n\"}  \n");
    out = added("{\"plugins\":[\n  {\"type\":\"a\"},\n  {\"type\":\"b\"}\n]}");
    cr_expect_str_eq(out, "{\"plugins\":[\n  {\"type\":\"a\"},\n  {\"type\":\"b\"},\n  " ENTRY "\n]}");
    free(out);
}

Test(cni_conf, an_earlier_entry_of_ours_is_replaced_wherever_it_stands)
{
    static const char *const texts[] = {
        "{\"plugins\":[{\"type\":\"bruma-cni\"},{\"type\":\"a\"}]}",
        "{\"plugins\":[{\"type\":\"a\"},{\"type\":\"bruma-cni\",\"x\":[1,2]}]}",
        "{\"plugins\":[{\"type\":\"bruma-cni\"}, "
        "{\"type\":\"bruma-cni\"},{\"type\":\"a\"},{\"type\":\"bruma-cni\"}]}",
    };

    for (size_t i = 0; i < 3; i++) {
        char *out = added(texts[i]), *without = NULL;
        size_t len;

        cr_assert_eq(cni_conf_remove(out, strlen(out), &without, &len), 1);
        cr_expect_eq(cni_conf_kind(without, len, why, sizeof(why)), CNI_CONF_LIST, "%s", without);
        cr_expect_eq(strstr(without, "bruma"), NULL, "%s", without);
        free(out);
        free(without);
    }
}

Test(cni_conf, another_entry_or_another_place_is_not_ours)
{
    static const char other[] = "{\"plugins\":[{\"type\":\"a\"},{\"type\":\"bruma-cni\"}]}";
    static const char first[] = "{\"plugins\":[" ENTRY ",{\"type\":\"a\"}]}";
    static const char twice[] = "{\"plugins\":[{\"type\":\"a\"}," ENTRY "," ENTRY "]}";

    cr_expect_not(cni_conf_has(other, strlen(other), ENTRY));
    cr_expect_not(cni_conf_has(first, strlen(first), ENTRY));
    cr_expect_not(cni_conf_has(twice, strlen(twice), ENTRY));
}

Test(cni_conf, what_cannot_be_edited_safely_is_refused)
{
    static const char *const texts[] = {
        "",
        "{",
        "[]",
        "null",
        "{}",
        "{\"plugins\":[]}",
        "{\"plugins\":{}}",
        "{\"plugins\":[1]}",
        "{\"plugins\":[{}]}",
        "{\"plugins\":[{\"type\":1}]}",
        "{\"plugins\":[{\"type\":\"a\"}],\"plugins\":[{\"type\":\"b\"}]}",
        "{\"plugins\":[{\"type\":\"a\"}],\"Plugins\":[{\"type\":\"b\"}]}",
        "{\"plugins\":[{\"type\":\"a\"}]} trailing",
        "{\"plugins\":[{\"type\":\"a\"},]}",
        "{\"plugins\":[{\"type\":\"a\"}",
    };

    for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
        char *out = NULL;
        size_t len;

        cr_expect_eq(cni_conf_kind(texts[i], strlen(texts[i]), why, sizeof(why)), CNI_CONF_BAD, "%s",
                     texts[i]);
        cr_expect_eq(cni_conf_add(texts[i], strlen(texts[i]), ENTRY, &out, &len), -EBADMSG, "%s", texts[i]);
        cr_expect(out == NULL);
    }
    cr_expect_eq(cni_conf_kind("{\"a\":1}\0{", 9, why, sizeof(why)), CNI_CONF_BAD);
}

Test(cni_conf, a_list_of_nothing_but_ours_is_left_alone)
{
    static const char text[] = "{\"plugins\":[" ENTRY "]}";
    char *out = NULL;
    size_t len;

    cr_expect_eq(cni_conf_remove(text, strlen(text), &out, &len), -EBADMSG);
    cr_expect(out == NULL);
}

Test(cni_conf, one_plugin_becomes_a_list)
{
    static const char text[] = "{\"cniVersion\":\"0.4.0\",\"name\":\"n\\\"\",\"type\":\"bridge\"}\n";
    char *out = NULL;
    size_t len;

    cr_expect_eq(cni_conf_kind(text, strlen(text), why, sizeof(why)), CNI_CONF_SINGLE);
    cr_assert_eq(cni_conf_wrap(text, strlen(text), ENTRY, &out, &len), 0);
    cr_expect_eq(cni_conf_kind(out, len, why, sizeof(why)), CNI_CONF_LIST, "%s", out);
    cr_expect(cni_conf_has(out, len, ENTRY));
    cr_expect(strstr(out, "\"cniVersion\":\"0.4.0\",\"name\":\"n\\\"\",\"plugins\"") != NULL, "%s", out);
    free(out);
}

/* Configurations as other vendors write them: tabs, empty lines, one line, no newline at the end. */
Test(cni_conf, files_of_vendors_come_back_byte_for_byte)
{
    DIR *dir = opendir(TEST_DATA "/conflist");
    struct dirent *e;
    int count = 0;

    cr_assert_not_null(dir);
    while ((e = readdir(dir))) {
        char path[512], text[16384];
        size_t len;
        FILE *f;

        if (*e->d_name == '.')
            continue;
        snprintf(path, sizeof(path), TEST_DATA "/conflist/%s", e->d_name);
        f = fopen(path, "re");
        cr_assert_not_null(f);
        len = fread(text, 1, sizeof(text) - 1, f);
        text[len] = '\0';
        fclose(f);
        cr_assert(len > 0 && len < sizeof(text) - 1);
        round_trip(text);
        count++;
    }
    closedir(dir);
    cr_expect_geq(count, 6);
}

Test(cni_conf, a_list_that_is_full_is_left_alone)
{
    char text[4096] = "{\"plugins\":[{\"type\":\"a\"}", *out = NULL;
    size_t len;

    for (int i = 1; i < 63; i++)
        strcat(text, ",{\"type\":\"a\"}");
    strcpy(text + strlen(text), "]}");
    free(added(text));
    strcpy(text + strlen(text) - 2, ",{\"type\":\"a\"}]}");
    cr_expect_eq(cni_conf_add(text, strlen(text), ENTRY, &out, &len), -EBADMSG);
    cr_expect(out == NULL);
}

Test(cni_conf, a_copy_says_what_it_was_made_of)
{
    static const char *const not_copies[] = {
        "", "{}", "[]", "{\"plugins\":{}}", "{\"plugins\":[]}", "{\"plugins\":[1]}",
        "{\"plugins\":[{\"type\":\"bruma-cni\"}]}",
        "{\"plugins\":[{\"type\":\"a\",\"made_of\":\"10.conf\"}]}",
        "{\"plugins\":[{\"type\":\"bruma-cni\",\"made_of\":1}]}",
        /* in the midst of somebody's list: that is his */
        "{\"plugins\":[{\"type\":\"bruma-cni\",\"made_of\":\"10.conf\"},{\"type\":\"a\"}]}"};
    static const char text[] = "{\"name\":\"n\",\"plugins\":[{\"type\":\"a\"}]}";
    char *entry = cni_conf_copy_entry(ENTRY, "10-\"odd\".conflist"), *copy = NULL;
    size_t len;

    cr_assert_not_null(entry);
    cr_assert_eq(cni_conf_add(text, strlen(text), entry, &copy, &len), 0);
    cr_expect(cni_conf_is_copy(copy, len));
    cr_expect(cni_conf_has(copy, len, entry));
    for (size_t i = 0; i < sizeof(not_copies) / sizeof(not_copies[0]); i++)
        cr_expect_not(cni_conf_is_copy(not_copies[i], strlen(not_copies[i])), "%s", not_copies[i]);
    free(entry);
    free(copy);
}
