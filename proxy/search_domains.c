/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/search_domains.h"

#include <ares.h>
#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "lib/cleanup.h"

static int copy(const struct ares_options *options, char ***ret)
{
    size_t len = options->ndomains > 0 ? (size_t)options->ndomains : 0;
    char **domains = calloc(len + 1, sizeof(*domains));

    for (size_t i = 0; domains && i < len; i++) {
        domains[i] = strdup(options->domains[i]);
        if (!domains[i]) {
            while (i)
                free(domains[--i]);
            free(domains);
            return -ENOMEM;
        }
        for (char *c = domains[i]; *c; c++)
            *c = (char)tolower((unsigned char)*c);
    }
    *ret = domains;
    return domains ? 0 : -ENOMEM;
}

int search_domains_load(const char *const **ret)
{
    struct ares_options options = {};
    char **domains = NULL;
    ares_channel channel;
    int mask = 0, r;

    if (ares_init_options(&channel, NULL, 0) != ARES_SUCCESS)
        return -ENOMEM;
    r = ares_save_options(channel, &options, &mask) == ARES_SUCCESS ? copy(&options, &domains) : -ENOMEM;
    ares_destroy_options(&options);
    ares_destroy(channel);
    if (r == 0)
        *ret = (const char *const *)domains;
    return r;
}
