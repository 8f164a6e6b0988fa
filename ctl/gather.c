/* SPDX-License-Identifier: Apache-2.0 */
#include "ctl/gather.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ctl/safe_text.h"
#include "ctl/source.h"

int ask_agent_op(const struct place *place, const void *data, cJSON **ret)
{
    return agent_query(place, data, NULL, ret);
}

int ask_dump(const struct place *place, const void *data, cJSON **ret)
{
    cJSON *dump, *part;
    int r = proxy_dump(place, &dump);

    if (r != CTL_OK || !data) {
        if (r == CTL_OK)
            *ret = dump;
        return r;
    }
    part = cJSON_DetachItemFromObjectCaseSensitive(dump, data);
    cJSON_Delete(dump);
    *ret = part ? part : cJSON_CreateNull();
    return r;
}

int gathered_nobody(const struct ctl_options *o)
{
    fprintf(stderr,
            "brumactl: no pod of Bruma runs in namespace %s%s%s; --system-namespace names another one\n",
            fleet_namespace(o->fleet), o->node ? " on node " : "", o->node ? o->node : "");
    return CTL_UNREACHABLE;
}

int gather(const struct ctl_options *o, fleet_ask_fn ask, const void *data, struct node_answers *ret)
{
    struct node_answers g = {.fleet = o->fleet, .options = o, .len = 1};
    int r = CTL_OK;

    if (o->fleet) {
        g.len = fleet_len(o->fleet);
        g.answers = fleet_ask(o->fleet, ask, data);
    } else {
        g.answers = calloc(1, sizeof(*g.answers));
        if (g.answers)
            r = g.answers->code = ask(&o->place, data, &g.answers->json);
    }
    if (!g.answers) {
        fprintf(stderr, "brumactl: out of memory\n");
        return CTL_PROBLEM;
    }
    if (g.fleet && !g.len)
        r = gathered_nobody(o);
    if (r == CTL_OK)
        *ret = g;
    else
        fleet_answers_free(&g.answers, g.len);
    return r;
}

const char *gathered_node(const struct node_answers *g, size_t i)
{
    return g->fleet ? fleet_place(g->options->fleet, i)->node : "";
}

int gathered_end(struct node_answers *g, int code)
{
    size_t silent = 0;

    for (size_t i = 0; i < g->len; i++) {
        if (g->answers[i].code == CTL_OK)
            continue;
        silent++;
        fprintf(stderr, "brumactl: node %s: %s\n", gathered_node(g, i), g->answers[i].complaint);
    }
    if (silent == g->len)
        code = CTL_UNREACHABLE;
    fleet_answers_free(&g->answers, g->len);
    return code;
}

/* The answers move into it. */
static cJSON *as_list(struct node_answers *g, const char *key)
{
    cJSON *list = cJSON_CreateArray();

    for (size_t i = 0; i < g->len; i++) {
        struct fleet_answer *a = &g->answers[i];
        cJSON *one = cJSON_CreateObject();

        cJSON_AddStringToObject(one, "node", gathered_node(g, i));
        if (a->code == CTL_OK)
            cJSON_AddItemToObject(one, key, a->json);
        else
            cJSON_AddStringToObject(one, "error", a->complaint);
        a->json = a->code == CTL_OK ? NULL : a->json;
        cJSON_AddItemToArray(list, one);
    }
    return list;
}

int gathered_print(struct node_answers *g, const char *key)
{
    cJSON *list = g->fleet ? as_list(g, key) : NULL;
    char *text = json_to_text(g->fleet ? list : g->answers[0].json, false);

    puts(text ? text : "null");
    free(text);
    cJSON_Delete(list);
    return gathered_end(g, CTL_OK);
}
