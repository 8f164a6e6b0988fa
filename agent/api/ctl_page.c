/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/api/ctl_page.h"

#include <stdio.h>
#include <string.h>

#include "agent/api/ctl_server.h"
#include "lib/cleanup.h"
#include "lib/message.h"
#include "lib/rpc/http_local.h"

#define TEXT_MAX (2 * MESSAGE_NAME_MAX + 2) /* of a pod's name with its namespace */

static const char *op_of(const struct http_request *request)
{
    static const char *const ops[] = {"status", "pods", "explain", "doctor"};
    char path[32];

    for (size_t i = 0; i < array_size(ops); i++) {
        snprintf(path, sizeof(path), "/brumactl/%s", ops[i]);
        if (http_path_is(request, path))
            return ops[i];
    }
    return NULL;
}

/* A text that is too long is none, and the answer says what is missing. */
static void add_query(const struct http_request *request, cJSON *message, const char *name)
{
    char text[TEXT_MAX];

    if (http_query(request, name, text, sizeof(text)) >= 0)
        cJSON_AddStringToObject(message, name, text);
}

static const char *refusal(const struct http_request *request)
{
    return !http_names_loopback(request) ? "refused: the Host header is not localhost, 127.0.0.1 or [::1]\n"
           : http_is_of_another_page(request) ? "refused: the request comes from a foreign web page\n"
           : !http_is_roots(request)          ? "refused: only root may ask this\n"
                                              : NULL;
}

bool ctl_page_serve(struct agent *agent, struct http_request *request)
{
    struct http_answer how = {.status = 200, .type = "application/json", .compress = true};
    struct ctl_answer answer = {};
    const char *op = op_of(request), *refused;
    char *body;
    cJSON *message;

    if (!op)
        return false;
    refused = refusal(request);
    if (refused) {
        http_respond_text(request, 403, refused);
        return true;
    }
    answer.items = cJSON_CreateArray();
    message = message_new(op);
    add_query(request, message, "pod");
    add_query(request, message, "to");
    if (!ctl_serve(agent, &answer, message))
        how.status = 400;
    cJSON_Delete(message);
    body = cJSON_PrintUnformatted(answer.items);
    cJSON_Delete(answer.items);
    if (body)
        http_respond(request, &how, body, strlen(body));
    else
        http_respond_text(request, 503, "out of memory\n");
    return true;
}
