/* SPDX-License-Identifier: Apache-2.0 */
#include "ctl/dashboard/traffic.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ctl/dashboard/waypoints.h"
#include "ctl/gather.h"
#include "ctl/page.h"
#include "ctl/source.h"
#include "lib/cleanup.h"

static bool is_wanted(const char *line)
{
    static const char *const families[] = {"istio_tcp_connections_opened_total{",
                                           "istio_tcp_connections_closed_total{",
                                           "istio_tcp_connections_failed_total{",
                                           "istio_tcp_sent_bytes_total{",
                                           "istio_tcp_received_bytes_total{",
                                           "bruma_failures_total{",
                                           "process_"};

    for (size_t i = 0; i < array_size(families); i++) {
        if (!strncmp(line, families[i], strlen(families[i])))
            return true;
    }
    return false;
}

static cJSON *wanted_lines(char *text)
{
    cJSON *lines = cJSON_CreateArray();
    char *rest;

    for (char *line = strtok_r(text, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest)) {
        if (is_wanted(line))
            cJSON_AddItemToArray(lines, cJSON_CreateString(line));
    }
    return lines;
}

static int ask_traffic(const struct place *place, const void *data, cJSON **ret)
{
    struct page_session *session = NULL;
    struct received_body body = {};
    char error[PLACE_COMPLAINT_MAX] = "";
    long status = 0;
    int r = page_open(place, PAGE_PROXY, &session, error);

    (void)data;
    if (r == 0)
        r = page_get(session, "/metrics", &body, &status, error);
    page_close(&session);
    if (r == 0 && status == 200 && body.data) {
        *ret = wanted_lines(body.data);
        free(body.data);
        return CTL_OK;
    }
    free(body.data);
    if (r == 0)
        snprintf(error, sizeof(error), "it answered with status %ld", status);
    if (place->complaint)
        snprintf(place->complaint, PLACE_COMPLAINT_MAX, "no answer of the proxy: %.600s", error);
    else
        fprintf(stderr, "brumactl: no answer of the proxy: %s\n", error);
    return CTL_UNREACHABLE;
}

int command_traffic(const struct ctl_options *o, int argc, char **argv)
{
    struct node_answers g;
    int r = gather(o, ask_traffic, NULL, &g);

    (void)argc;
    (void)argv;
    return r == CTL_OK ? gathered_print(&g, "traffic") : r;
}

/* ---- waypoints ---- */

static int ask_waypoints(const struct place *place, const void *data, cJSON **ret)
{
    cJSON *dump;
    int r = ask_dump(place, data, &dump);

    if (r != CTL_OK)
        return r;
    *ret = waypoints_of(dump);
    cJSON_Delete(dump);
    return CTL_OK;
}

int command_waypoints(const struct ctl_options *o, int argc, char **argv)
{
    struct node_answers g;
    int r = gather(o, ask_waypoints, NULL, &g);

    (void)argc;
    (void)argv;
    return r == CTL_OK ? gathered_print(&g, "waypoints") : r;
}
