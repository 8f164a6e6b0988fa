/* SPDX-License-Identifier: Apache-2.0 */
#include "ctl/node_page.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ctl/fleet.h"

void node_page_init(struct node_page *p, const struct ctl_options *o, size_t i, const bool *stop)
{
    *p = (struct node_page){.options = o, .place = o->fleet ? *fleet_place(o->fleet, i) : o->place};
    p->node = p->place.node ? p->place.node : "";
    p->place.stop = stop;
}

bool node_page_mend(struct node_page *p)
{
    char error[PLACE_COMPLAINT_MAX];
    struct place place;
    cJSON *pods;
    bool same;

    if (!p->broken || !p->options->fleet ||
        fleet_look_again(p->options->fleet, p->node, &place, &pods, error) < 0)
        return false;
    same = place.proxy && p->place.proxy && !strcmp(place.proxy, p->place.proxy);
    place.stop = p->place.stop;
    p->place = place;
    cJSON_Delete(p->pods);
    p->pods = pods;
    return !same;
}

int node_page_get(struct node_page *p, const char *path, struct received_body *body, char *error)
{
    struct received_body got = {};
    long status = 0;
    int r = p->session ? 0 : page_open(&p->place, PAGE_PROXY, &p->session, error);

    if (r == 0)
        r = page_get(p->session, path, &got, &status, error);
    if (r == 0 && status != 200) {
        free(got.data);
        snprintf(error, PLACE_COMPLAINT_MAX, "it answered with status %ld; is it of another version?",
                 status);
        r = -EPROTO;
    }
    p->broken = r < 0;
    if (r < 0) {
        page_close(&p->session);
        return r;
    }
    *body = got;
    return 0;
}

void node_page_close(struct node_page *p)
{
    page_close(&p->session);
    cJSON_Delete(p->pods);
    p->pods = NULL;
}
