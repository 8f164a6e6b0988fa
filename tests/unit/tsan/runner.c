/* SPDX-License-Identifier: Apache-2.0 */
/* Runs each test in a process of its own, one after another, and closes with a line as Criterion's. */
#include "tests/unit/tsan/criterion/criterion.h"

#include <signal.h>
#include <stdarg.h>
#include <sys/wait.h>
#include <unistd.h>

#define DEFAULT_TIMEOUT 100 /* seconds */

static struct criterion_test *first;
static int failures; /* in the test's own process */

void criterion_add(struct criterion_test *test)
{
    test->next = first;
    first = test;
}

void criterion_failed(const char *file, int line, const char *condition, const char *format, ...)
{
    va_list args;

    failures++;
    printf("[----] %s:%d: Assertion Failed: %s:", file, line, condition);
    va_start(args, format);
    vprintf(format, args);
    va_end(args);
    printf("\n");
}

static const struct criterion_options *suite_options(const char *suite)
{
    for (const struct criterion_test *t = first; t; t = t->next) {
        if (!t->name && !strcmp(t->suite, suite))
            return &t->options;
    }
    return NULL;
}

static void run_here(const struct criterion_test *test)
{
    const struct criterion_options *suite = suite_options(test->suite), *own = &test->options;
    double timeout = own->timeout > 0              ? own->timeout
                     : suite && suite->timeout > 0 ? suite->timeout
                                                   : DEFAULT_TIMEOUT;

    alarm((unsigned)timeout * 3 + 1); /* everything is slower under TSan */
    if (suite && suite->init)
        suite->init();
    if (own->init)
        own->init();
    test->run();
    if (own->fini)
        own->fini();
    if (suite && suite->fini)
        suite->fini();
    exit(failures ? 1 : 0);
}

enum result { PASSED, FAILED, SKIPPED };

static enum result run_test(const struct criterion_test *test)
{
    int status;
    pid_t pid;

    fflush(stdout);
    pid = fork();
    if (pid == 0)
        run_here(test);
    if (pid < 0 || waitpid(pid, &status, 0) < 0)
        return FAILED;
    if (WIFSIGNALED(status)) {
        if (test->options.signal == WTERMSIG(status))
            return PASSED;
        printf("[----] %s::%s: ended by signal %d\n", test->suite, test->name, WTERMSIG(status));
        return FAILED;
    }
    if (WEXITSTATUS(status) == 77)
        return SKIPPED;
    if (WEXITSTATUS(status) == test->options.exit_code)
        return PASSED;
    printf("[FAIL] %s::%s: exit status %d\n", test->suite, test->name, WEXITSTATUS(status));
    return FAILED;
}

int main(void)
{
    unsigned tested = 0, passing = 0, skipped = 0;

    for (const struct criterion_test *t = first; t; t = t->next) {
        if (!t->name || t->options.disabled)
            continue;
        switch (run_test(t)) {
        case PASSED:
            passing++;
            tested++;
            break;
        case FAILED:
            tested++;
            break;
        case SKIPPED:
            skipped++;
            break;
        }
    }
    printf("[====] Synthesis: Tested: %u | Passing: %u | Failing: %u | Crashing: 0\n", tested, passing,
           tested - passing);
    return passing == tested && tested + skipped ? 0 : 1;
}
