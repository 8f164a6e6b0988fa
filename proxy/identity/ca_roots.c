/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/identity/ca_roots.h"

#include <stdlib.h>
#include <string.h>

#include "proxy/identity/credentials.h"

#define CHECK_MILLISECONDS 5000

static void on_timer(struct loop_timer *timer)
{
    struct ca_roots *roots = container_of(timer, struct ca_roots, timer);
    char *text = NULL;

    loop_timer_set(roots->loop, timer, CHECK_MILLISECONDS);
    if (roots_load(roots->setting, &text) < 0 || !text)
        return; /* whoever needs them says so */
    if (roots->text && strcmp(roots->text, text) != 0)
        roots->changed(roots->data);
    free(roots->text);
    roots->text = text;
}

void ca_roots_follow(struct ca_roots *roots, struct loop *loop, const char *setting,
                     void (*changed)(void *data), void *data)
{
    *roots = (struct ca_roots){.loop = loop, .setting = setting, .changed = changed, .data = data};
    loop_timer_init(&roots->timer, on_timer);
    loop_timer_set(loop, &roots->timer, 0);
}

void ca_roots_clear(struct ca_roots *roots)
{
    loop_timer_cancel(&roots->timer);
    free(roots->text);
    roots->text = NULL;
}
