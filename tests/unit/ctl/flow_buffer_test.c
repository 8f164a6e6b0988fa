/* SPDX-License-Identifier: Apache-2.0 */
/* The buffer of the dashboard, and a command that says more than it keeps. */
#include "ctl/dashboard/flow_buffer.h"

#include <cjson/cJSON.h>
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "ctl/json_text.h"

#define MORE 10 /* lines that are pushed out */

static struct loop *loop;
static struct flow_buffer *buffer;
static struct loop_timer patience;

/* In place of the command of that name, in the process that the buffer starts. */
int command_flows(const struct ctl_options *options, int argc, char **argv)
{
    char *huge = malloc(FLOW_LINE_MAX + 3);

    cr_assert(options->json && options->follow && argc == 0 && !argv);
    memset(huge, ' ', FLOW_LINE_MAX + 2);
    huge[FLOW_LINE_MAX + 2] = '\0';
    printf("%s\n", huge);
    for (int i = 1; i <= FLOW_LINES_MAX + MORE; i++)
        printf("{\"n\":%d}\n", i);
    printf("{\"n\":\"half");
    fprintf(stderr, "brumactl: one\nbrumactl: \"two\"\n");
    free(huge);
    return 3;
}

static void on_patience(struct loop_timer *timer)
{
    (void)timer;
    loop_stop(loop);
}

static cJSON *tell(uint64_t after)
{
    char *text;
    size_t len;
    FILE *f = open_memstream(&text, &len);
    cJSON *json;

    flow_buffer_tell(buffer, after, f);
    fclose(f);
    json = cJSON_Parse(text);
    cr_assert_not_null(json, "%.200s", text);
    free(text);
    return json;
}

static void run(unsigned milliseconds)
{
    loop_timer_set(loop, &patience, milliseconds);
    cr_assert_eq(loop_run(loop), 0);
}

static void setup(void)
{
    static const struct ctl_options options;

    cr_assert_eq(loop_new(&loop), 0);
    loop_timer_init(&patience, on_patience);
    buffer = flow_buffer_new(loop, &options);
}

static void teardown(void)
{
    flow_buffer_free(&buffer);
    loop_timer_cancel(&patience);
    loop_free(&loop);
}

static const cJSON *lines_of(const cJSON *json)
{
    return cJSON_GetObjectItemCaseSensitive(json, "lines");
}

Test(flow_buffer, what_is_too_much_is_left_out_and_counted, .init = setup, .fini = teardown)
{
    cJSON *first = tell(0), *later = NULL;

    cr_assert(cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(first, "runs")));
    cr_assert_eq(cJSON_GetArraySize(lines_of(first)), 0);
    for (int i = 0; i < 100 && !later; i++) {
        run(50);
        later = tell(1);
        if (!*text_of(later, "said")) {
            cJSON_Delete(later);
            later = NULL;
        }
    }
    cr_assert_not_null(later, "it has said something");
    cr_assert_str_eq(text_of(later, "said"), "brumactl: \"two\"");
    cr_assert_eq(cJSON_GetArraySize(lines_of(later)), FLOW_LINES_MAX);
    cr_assert_eq(number_of(cJSON_GetArrayItem(lines_of(later), 0), "n"), MORE + 1);
    cr_assert_eq(number_of(later, "next"), FLOW_LINES_MAX + MORE);
    cr_assert_eq(number_of(later, "lost"), MORE - 1);
    cJSON_Delete(first);
    cJSON_Delete(later);
}

Test(flow_buffer, a_number_from_elsewhere_begins_anew, .init = setup, .fini = teardown)
{
    cJSON *json = tell(UINT64_MAX);

    cr_assert_eq(number_of(json, "next"), 0);
    cr_assert_eq(number_of(json, "lost"), 0);
    cJSON_Delete(json);
}
