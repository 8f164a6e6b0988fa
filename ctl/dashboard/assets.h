/* SPDX-License-Identifier: Apache-2.0 */
/* Files of the page (ctl/dashboard/page), made part of the program by embed.py. */
#ifndef CTL_DASHBOARD_ASSETS_H
#define CTL_DASHBOARD_ASSETS_H

#include <stddef.h>

struct dashboard_asset {
    const char *path; /* behind the token: "/main.js"; "/" is the page */
    const char *type; /* content type */
    const unsigned char *data;
    size_t len; /* bytes */
};

extern const struct dashboard_asset dashboard_assets[];
extern const size_t dashboard_assets_len;

#endif
