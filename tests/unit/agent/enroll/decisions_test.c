/* SPDX-License-Identifier: Apache-2.0 */
/* What the plugin reads while no agent answers is written once the source is known, however late that is. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "agent/enroll/decisions.h"
#include "bruma/protocol.h"
#include "tests/unit/agent/agent_doubles.h"

static char directory[64], path[128];
static struct agent_settings settings = {.without_agent = "never", .decisions_age = 1000};
static struct agent agent;
static struct decisions decisions;
static struct loop_timer pump;
static int asked, ready_after;

static bool ready(void *data)
{
    return ++asked > ready_after;
}

static void fill(void *data, cJSON *namespaces, cJSON *pods)
{
    cJSON_AddStringToObject(pods, "1", BRUMA_INSIDE);
}

static void on_pump(struct loop_timer *timer)
{
    if (access(path, F_OK) == 0)
        loop_stop(agent.loop);
    else
        loop_timer_set(agent.loop, timer, 20);
}

static void setup(void)
{
    strcpy(directory, "/tmp/bruma-unit-XXXXXX");
    cr_assert(mkdtemp(directory) != NULL);
    snprintf(path, sizeof(path), "%s/%s", directory, BRUMA_DECISIONS);
    settings.run_dir = directory;
    agent.settings = &settings;
    cr_assert(loop_new(&agent.loop) == 0);
    loop_timer_init(&pump, on_pump);
    loop_timer_set(agent.loop, &pump, 20);
    decisions = (struct decisions){.agent = &agent, .ready = ready, .fill = fill};
}

static void teardown(void)
{
    decisions_close(&decisions);
    loop_free(&agent.loop);
    unlink(path);
    cr_expect(rmdir(directory) == 0);
}

TestSuite(decisions, .init = setup, .fini = teardown, .timeout = 60);

Test(decisions, are_written_when_the_source_is_known)
{
    decisions_open(&decisions);
    cr_assert(loop_run(agent.loop) == 0);
    cr_expect_eq(asked, 1);
}

/* Nothing has changed since: nobody touches them. */
Test(decisions, are_written_when_it_becomes_known_late)
{
    ready_after = 2;
    decisions_open(&decisions);
    cr_assert(loop_run(agent.loop) == 0);
    cr_expect_eq(asked, 3);
}
