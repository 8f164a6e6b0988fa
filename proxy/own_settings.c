/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/own_settings.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "lib/cleanup.h"

/* Each is a part of an identity, whose parts slashes separate. */
static int check_part(const char *setting, const char *text, char *error, size_t error_size)
{
    if (!strchr(text, '/'))
        return 0;
    snprintf(error, error_size, "%s: \"%.100s\" must hold no '/'", setting, text);
    return -EINVAL;
}

/* NAMESPACE/NAME/SERVICEACCOUNT; the parts are valid until the next call. */
static int split_workload(struct proxy_settings *s, char *error, size_t error_size)
{
    static char text[700];
    char *at = text;
    size_t n = 0;

    if (strlen(s->workload_info) < sizeof(text)) {
        strcpy(text, s->workload_info);
        for (char *part; n < array_size(s->own) && (part = strsep(&at, "/")) && *part; n++)
            s->own[n] = part;
    }
    if (n == array_size(s->own) && !at)
        return 0;
    snprintf(error, error_size, "PROXY_WORKLOAD_INFO: \"%.100s\" is not NAMESPACE/NAME/SERVICEACCOUNT",
             s->workload_info);
    return -EINVAL;
}

static int check_mode(struct proxy_settings *s, char *error, size_t error_size)
{
    const char *wrong = NULL;

    s->dedicated = !strcmp(s->proxy_mode, "dedicated");
    if (!s->dedicated && strcmp(s->proxy_mode, "shared") != 0)
        snprintf(error, error_size, "PROXY_MODE: \"%.100s\" is neither shared nor dedicated", s->proxy_mode);
    else if (!s->dedicated && *s->workload_info)
        snprintf(error, error_size, "PROXY_WORKLOAD_INFO: \"%.100s\" belongs to PROXY_MODE=dedicated",
                 s->workload_info);
    else if (*s->hand_over_socket && !*s->zds_socket)
        snprintf(error, error_size,
                 "BRUMA_HAND_OVER_SOCKET: belongs to INPOD_UDS; bruma-agent brings proxies "
                 "together by its own setting hand-over");
    else if (s->dedicated && (*s->zds_socket || *s->agent_socket))
        wrong = *s->zds_socket ? "INPOD_UDS" : "BRUMA_AGENT_SOCKET";
    else
        return 0;
    if (wrong)
        snprintf(error, error_size, "%s: with PROXY_MODE=dedicated no agent names pods", wrong);
    return -EINVAL;
}

int own_settings_derive(struct proxy_settings *s, char *error, size_t error_size)
{
    int r = check_mode(s, error, error_size);

    if (r == 0)
        r = check_part("SERVICE_ACCOUNT", s->service_account, error, error_size);
    if (r == 0)
        r = check_part("TRUST_DOMAIN", s->trust_domain, error, error_size);
    if (r == 0 && *s->service_account)
        r = check_part("POD_NAME", s->pod_name, error, error_size);
    if (r == 0 && *s->service_account)
        r = check_part("POD_NAMESPACE", s->pod_namespace, error, error_size);
    if (r < 0)
        return r;
    s->own_hbone = !s->dedicated && *s->service_account && *s->pod_name && *s->pod_namespace;
    if (!*s->pod_name)
        s->pod_name = "bruma-proxy";
    if (!*s->pod_namespace)
        s->pod_namespace = "istio-system";
    s->own[0] = s->pod_namespace;
    s->own[1] = s->pod_name;
    s->own[2] = s->service_account;
    return s->dedicated ? split_workload(s, error, error_size) : 0;
}
