/* SPDX-License-Identifier: Apache-2.0 */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "lib/message.h"

static cJSON *parse(const char *text)
{
    cJSON *m = NULL;

    return message_parse(text, strlen(text), &m) < 0 ? NULL : m;
}

Test(message, takes_one_object_with_an_op)
{
    _cleanup_message_ cJSON *m = parse(" {\"op\":\"x\",\"unknown\":[1,{}]} \n");

    cr_assert(m != NULL);
    cr_expect(strcmp(message_op(m), "x") == 0);
}

Test(message, refuses_what_is_not_one_object_with_an_op)
{
    static const char *const bad[] = {"",
                                      " ",
                                      "{",
                                      "[]",
                                      "\"op\"",
                                      "null",
                                      "{}",
                                      "{\"op\":1}",
                                      "{\"op\":",
                                      "{\"op\":\"",
                                      "nonsense",
                                      "{\"op\":\"x\"} {\"op\":\"y\"}",
                                      "{\"op\":\"x\"}x",
                                      "{\"OP\":\"x\"}"};

    for (size_t i = 0; i < array_size(bad); i++) {
        cJSON *m = parse(bad[i]);

        cr_expect(m == NULL, "accepted: %s", bad[i]);
        cJSON_Delete(m);
    }
}

Test(message, refuses_a_cut_object_at_every_length)
{
    static const char whole[] = "{\"op\":\"cni-add\",\"ips\":[\"10.0.0.1\"]}";

    for (size_t len = 0; len < sizeof(whole) - 1; len++) {
        char *copy = malloc(len ? len : 1); /* so that a read behind the end is seen by the sanitizer */
        cJSON *m = NULL;

        memcpy(copy, whole, len);
        cr_expect(message_parse(copy, len, &m) == -EBADMSG, "length %zu", len);
        free(copy);
    }
}

Test(message, refuses_deep_nesting)
{
    static char deep[60000];
    cJSON *m = NULL;

    memset(deep, '[', sizeof(deep));
    cr_expect(message_parse(deep, sizeof(deep), &m) == -EBADMSG);
}

Test(message, names_are_fit_for_files)
{
    static const char *const bad[] = {"..", ".hidden", "a/b", "-x", "a b", "a\\nb", "\\u00e9"};
    const char *name = NULL;

    for (size_t i = 0; i < array_size(bad); i++) {
        char text[100];
        _cleanup_message_ cJSON *m = NULL;

        snprintf(text, sizeof(text), "{\"op\":\"x\",\"n\":\"%s\"}", bad[i]);
        m = parse(text);
        cr_assert(m != NULL);
        cr_expect(message_name(m, "n", &name) == -EBADMSG, "accepted: %s", bad[i]);
    }
    _cleanup_message_ cJSON *m =
        parse("{\"op\":\"x\",\"n\":\"web-0.a_b\",\"empty\":\"\",\"null\":null,\"num\":1}");

    cr_expect(message_name(m, "n", &name) == 0 && strcmp(name, "web-0.a_b") == 0);
    cr_expect(message_name(m, "empty", &name) == -ENOENT);
    cr_expect(message_name(m, "null", &name) == -ENOENT);
    cr_expect(message_name(m, "none", &name) == -ENOENT);
    cr_expect(message_name(m, "num", &name) == -EBADMSG);
}

Test(message, a_name_longer_than_the_limit_is_refused)
{
    cJSON *m = message_new("x");
    char text[MESSAGE_NAME_MAX + 2] = {0};
    const char *name;

    memset(text, 'a', MESSAGE_NAME_MAX);
    cJSON_AddStringToObject(m, "fits", text);
    text[MESSAGE_NAME_MAX] = 'a';
    cJSON_AddStringToObject(m, "long", text);
    cr_expect(message_name(m, "fits", &name) == 0);
    cr_expect(message_name(m, "long", &name) == -EBADMSG);
    cJSON_Delete(m);
}

Test(message, numbers)
{
    _cleanup_message_ cJSON *m = parse(
        "{\"op\":\"x\",\"a\":\"18446744073709551615\",\"b\":\"18446744073709551616\",\"c\":\"-1\",\"d\":\"\","
        "\"e\":12,\"f\":1.5,\"g\":-1,\"h\":4294967296}");
    uint64_t n = 0;

    cr_expect(message_u64(m, "a", &n) == 0 && n == UINT64_MAX);
    cr_expect(message_u64(m, "b", &n) == -EBADMSG);
    cr_expect(message_u64(m, "c", &n) == -EBADMSG);
    cr_expect(message_u64(m, "d", &n) == -EBADMSG);
    cr_expect(message_u64(m, "e", &n) == -EBADMSG);
    cr_expect(message_number(m, "e", 100, &n) == 0 && n == 12);
    cr_expect(message_number(m, "f", 100, &n) == -EBADMSG);
    cr_expect(message_number(m, "g", 100, &n) == -EBADMSG);
    cr_expect(message_number(m, "h", UINT32_MAX, &n) == -EBADMSG);
    cr_expect(message_number(m, "a", 100, &n) == -EBADMSG);
    cr_expect(message_number(m, "z", 100, &n) == -ENOENT);
}

Test(message, addresses)
{
    _cleanup_message_ cJSON *m = parse(
        "{\"op\":\"x\",\"ips\":[\"10.0.0.1/24\",\"fd00::1\",\"10.0.0.1\"],\"none\":[],\"bad\":[\"10.0.0\"],"
        "\"num\":[1],\"text\":\"10.0.0.1\",\"long\":[\"1.1.1.1\",\"1.1.1.2\",\"1.1.1.3\"],\"slash\":[\"/"
        "24\"]}");
    struct addr a[2];
    char text[ADDR_TEXT_LEN];
    int len = -1;

    cr_assert(message_addresses(m, "ips", a, 2, &len) == 0);
    cr_assert(len == 2);
    cr_expect(strcmp(addr_format(&a[0], text), "10.0.0.1") == 0);
    cr_expect(strcmp(addr_format(&a[1], text), "fd00::1") == 0);
    cr_expect(message_addresses(m, "none", a, 2, &len) == 0 && len == 0);
    cr_expect(message_addresses(m, "missing", a, 2, &len) == 0 && len == 0);
    cr_expect(message_addresses(m, "bad", a, 2, &len) == -EBADMSG);
    cr_expect(message_addresses(m, "num", a, 2, &len) == -EBADMSG);
    cr_expect(message_addresses(m, "text", a, 2, &len) == -EBADMSG);
    cr_expect(message_addresses(m, "slash", a, 2, &len) == -EBADMSG);
    cr_expect(message_addresses(m, "long", a, 2, &len) == 0 && len == 2,
              "what there is no room for is left out");
}

Test(message, printing)
{
    char *text = NULL;
    size_t len = 0;
    FILE *out = open_memstream(&text, &len);

    cr_assert(out != NULL);
    cr_expect(message_print(out, cJSON_CreateString("a\"b")) == 0);
    cr_expect(message_print(out, NULL) == -ENOMEM);
    cr_assert(fclose(out) == 0);
    cr_expect(!strcmp(text, "\"a\\\"b\""), "%s", text);
    free(text);
}
