/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/own_settings.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

/* Each is a part of an identity, whose parts slashes separate. */
static int check_part(const char *setting, const char *text, char *error, size_t error_size)
{
    if (!strchr(text, '/'))
        return 0;
    snprintf(error, error_size, "%s: \"%.100s\" must hold no '/'", setting, text);
    return -EINVAL;
}

int own_settings_derive(struct proxy_settings *s, char *error, size_t error_size)
{
    int r = check_part("SERVICE_ACCOUNT", s->service_account, error, error_size);

    if (r == 0)
        r = check_part("TRUST_DOMAIN", s->trust_domain, error, error_size);
    if (r == 0 && *s->service_account)
        r = check_part("POD_NAME", s->pod_name, error, error_size);
    if (r == 0 && *s->service_account)
        r = check_part("POD_NAMESPACE", s->pod_namespace, error, error_size);
    if (r < 0)
        return r;
    s->own_hbone = *s->service_account && *s->pod_name && *s->pod_namespace;
    if (!*s->pod_name)
        s->pod_name = "bruma-proxy";
    if (!*s->pod_namespace)
        s->pod_namespace = "istio-system";
    s->own[0] = s->pod_namespace;
    s->own[1] = s->pod_name;
    s->own[2] = s->service_account;
    return 0;
}
