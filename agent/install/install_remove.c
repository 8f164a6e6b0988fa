/* SPDX-License-Identifier: Apache-2.0 */
/* Taking the plugin off the node. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "agent/install/cni_conf.h"
#include "agent/install/install.h"
#include "agent/install/install_file.h"
#include "agent/install/install_network.h"
#include "lib/reasons.h"

#define LOG_SCOPE "install"
#include "lib/log.h"

/* CRI-O ends a pod with the chain that it was begun with, and fails if a program of it is missing. Without an
 * agent the plugin's DEL does nothing and succeeds. */
static bool program_is_needed(const struct agent_settings *settings)
{
    return strstr(settings->cri_socket, "crio") != NULL;
}

static int remove_program(const struct agent_settings *settings)
{
    char path[512];

    if (!*settings->cni_bin_dir)
        return 0;
    install_file_sweep(settings->cni_bin_dir);
    snprintf(path, sizeof(path), "%s/" CNI_PLUGIN_TYPE, settings->cni_bin_dir);
    if (program_is_needed(settings)) {
        log_info("bruma-cni stays: CRI-O calls it when pods end that began with it\tfile=\"%s\"", path);
        return 0;
    }
    if (unlink(path) < 0 && errno != ENOENT)
        return log_error_errno(errno, "the plugin cannot be removed\tfile=\"%s\"", path);
    return 0;
}

int install_remove(const struct agent_settings *settings)
{
    struct install_network n = {.directory = settings->cni_conf_dir,
                                .own_name = settings->cni_owned_conf_name};
    int r, tries = 0;

    signal(SIGIO, SIG_IGN);
    install_file_sweep(settings->cni_conf_dir);
    while ((r = install_network_apply(&n)) == -EAGAIN && tries++ < 100)
        usleep(50000);
    if (r == -EAGAIN)
        return log_error_errno(r, "another program keeps a network configuration open for writing");
    if (r < 0 && n.reason != BRUMA_REASON_CNI_CONF_MISSING) {
        log_error("the entry of bruma-cni cannot be taken out\treason=%s error=\"%s\"", reason_name(n.reason),
                  n.error);
        return r; /* the program must stay for as long as the entry does */
    }
    return remove_program(settings);
}
