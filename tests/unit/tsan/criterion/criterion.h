/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The part of Criterion's interface that the unit tests use, for builds with ThreadSanitizer: Criterion
 * itself keeps tests in a memory arena at a place that TSan does not allow, and crashes. See runner.c.
 */
#ifndef TSAN_CRITERION_H
#define TSAN_CRITERION_H

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct criterion_options {
    void (*init)(void);
    void (*fini)(void);
    double timeout; /* seconds */
    bool disabled;
    const char *description;
    int signal;    /* that ends the test */
    int exit_code; /* that the test ends with */
};

struct criterion_test {
    const char *suite, *name; /* name NULL: the options of a whole suite */
    void (*run)(void);
    struct criterion_options options;
    struct criterion_test *next;
};

void criterion_add(struct criterion_test *test);
void criterion_failed(const char *file, int line, const char *condition, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

#define CRITERION_ADD(id, suite_, name_, run_, ...)                                       \
    static __attribute__((constructor)) void id##_add(void)                               \
    {                                                                                     \
        static struct criterion_test test = {                                             \
            .suite = (suite_), .name = (name_), .run = (run_), .options = {__VA_ARGS__}}; \
        criterion_add(&test);                                                             \
    }                                                                                     \
    static __attribute__((unused)) const int id##_added = 1

#define Test(suite_, name_, ...)                                                            \
    static void suite_##_##name_##_test(void);                                              \
    CRITERION_ADD(suite_##_##name_, #suite_, #name_, suite_##_##name_##_test, __VA_ARGS__); \
    static void suite_##_##name_##_test(void)

#define TestSuite(suite_, ...) CRITERION_ADD(suite_##_suite, #suite_, NULL, NULL, __VA_ARGS__)

#define CRITERION_CHECK(condition, end, ...)                                   \
    do {                                                                       \
        if (!(condition)) {                                                    \
            criterion_failed(__FILE__, __LINE__, #condition, " " __VA_ARGS__); \
            if (end)                                                           \
                exit(1);                                                       \
        }                                                                      \
    } while (0)

#define cr_assert(condition, ...)       CRITERION_CHECK(condition, true, __VA_ARGS__)
#define cr_expect(condition, ...)       CRITERION_CHECK(condition, false, __VA_ARGS__)
#define cr_assert_not(condition, ...)   CRITERION_CHECK(!(condition), true, __VA_ARGS__)
#define cr_expect_not(condition, ...)   CRITERION_CHECK(!(condition), false, __VA_ARGS__)
#define cr_assert_eq(a, b, ...)         CRITERION_CHECK((a) == (b), true, __VA_ARGS__)
#define cr_expect_eq(a, b, ...)         CRITERION_CHECK((a) == (b), false, __VA_ARGS__)
#define cr_assert_null(a, ...)          CRITERION_CHECK((a) == NULL, true, __VA_ARGS__)
#define cr_expect_null(a, ...)          CRITERION_CHECK((a) == NULL, false, __VA_ARGS__)
#define cr_assert_str_eq(a, b, ...)     CRITERION_CHECK(strcmp((a), (b)) == 0, true, __VA_ARGS__)
#define cr_expect_str_eq(a, b, ...)     CRITERION_CHECK(strcmp((a), (b)) == 0, false, __VA_ARGS__)
#define cr_assert_not_null(a, ...)      CRITERION_CHECK((a) != NULL, true, __VA_ARGS__)
#define cr_expect_not_null(a, ...)      CRITERION_CHECK((a) != NULL, false, __VA_ARGS__)
#define cr_assert_neq(a, b, ...)        CRITERION_CHECK((a) != (b), true, __VA_ARGS__)
#define cr_expect_neq(a, b, ...)        CRITERION_CHECK((a) != (b), false, __VA_ARGS__)
#define cr_assert_lt(a, b, ...)         CRITERION_CHECK((a) < (b), true, __VA_ARGS__)
#define cr_expect_lt(a, b, ...)         CRITERION_CHECK((a) < (b), false, __VA_ARGS__)
#define cr_assert_leq(a, b, ...)        CRITERION_CHECK((a) <= (b), true, __VA_ARGS__)
#define cr_expect_leq(a, b, ...)        CRITERION_CHECK((a) <= (b), false, __VA_ARGS__)
#define cr_assert_gt(a, b, ...)         CRITERION_CHECK((a) > (b), true, __VA_ARGS__)
#define cr_expect_gt(a, b, ...)         CRITERION_CHECK((a) > (b), false, __VA_ARGS__)
#define cr_assert_geq(a, b, ...)        CRITERION_CHECK((a) >= (b), true, __VA_ARGS__)
#define cr_expect_geq(a, b, ...)        CRITERION_CHECK((a) >= (b), false, __VA_ARGS__)
#define cr_assert_str_neq(a, b, ...)    CRITERION_CHECK(strcmp((a), (b)) != 0, true, __VA_ARGS__)
#define cr_expect_str_neq(a, b, ...)    CRITERION_CHECK(strcmp((a), (b)) != 0, false, __VA_ARGS__)
#define cr_assert_str_empty(a, ...)     CRITERION_CHECK(!*(a), true, __VA_ARGS__)
#define cr_expect_str_empty(a, ...)     CRITERION_CHECK(!*(a), false, __VA_ARGS__)
#define cr_assert_str_not_empty(a, ...) CRITERION_CHECK(*(a), true, __VA_ARGS__)
#define cr_expect_str_not_empty(a, ...) CRITERION_CHECK(*(a), false, __VA_ARGS__)
#define cr_assert_fail(...)             CRITERION_CHECK(false, true, __VA_ARGS__)
#define cr_skip(...)                   \
    do {                               \
        printf("[SKIP] " __VA_ARGS__); \
        printf("\n");                  \
        exit(77);                      \
    } while (0)

#endif
