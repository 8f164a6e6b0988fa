/* SPDX-License-Identifier: Apache-2.0 */
#include "ctl/dashboard/gate.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

static char token[GATE_TOKEN_LEN + 1], path[2 * GATE_TOKEN_LEN];

static const char *behind(const char *text)
{
    snprintf(path, sizeof(path), "/%s%s", token, text);
    return gate_path(path, token);
}

static void setup(void)
{
    cr_assert_eq(gate_token_new(token), 0);
}

Test(gate, tokens_are_of_their_own, .init = setup)
{
    char other[GATE_TOKEN_LEN + 1];

    cr_assert_eq(strspn(token, "0123456789abcdef"), GATE_TOKEN_LEN);
    cr_assert_eq(gate_token_new(other), 0);
    cr_assert_neq(strcmp(token, other), 0);
}

Test(gate, what_stands_behind_the_token, .init = setup)
{
    cr_assert_str_eq(behind("/"), "/");
    cr_assert_str_eq(behind("/api/pods"), "/api/pods");
    cr_assert_str_eq(behind(""), "");
}

Test(gate, any_wrong_digit, .init = setup)
{
    for (size_t i = 1; i <= GATE_TOKEN_LEN; i++) {
        (void)behind("/");
        path[i] ^= 1;
        cr_assert_null(gate_path(path, token), "digit %zu", i);
    }
}

Test(gate, too_short_too_long_and_none, .init = setup)
{
    cr_assert_null(behind("0/"));
    cr_assert_null(gate_path("", token));
    cr_assert_null(gate_path("/", token));
    (void)behind("");
    path[GATE_TOKEN_LEN] = '\0';
    cr_assert_null(gate_path(path, token));
    (void)behind("/");
    path[0] = 'x';
    cr_assert_null(gate_path(path, token));
}
