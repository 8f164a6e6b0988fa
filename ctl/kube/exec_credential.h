/* SPDX-License-Identifier: Apache-2.0 */
/* Credential plugins of a kubeconfig: https://kubernetes.io/docs/reference/access-authn-authz/authentication,
 * client.authentication.k8s.io/v1. */
#ifndef CTL_KUBE_EXEC_CREDENTIAL_H
#define CTL_KUBE_EXEC_CREDENTIAL_H

#include "ctl/kube/kubeconfig.h"

/*
 * Runs the plugin of the access, if it has one, and takes token or certificate from what it says. It may ask
 * the user on the terminal, so it may take as long as it likes; its complaints go to stderr. 0; -ENOENT:
 * there is no such program; -EIO: it has failed; -EINVAL: its answer is none; -ENOMEM. error has words then.
 */
int exec_credential_get(struct kube_access *access, char error[KUBECONFIG_ERROR_MAX]);
/* What it has said goes into the access. 0, -EINVAL or -ENOMEM, with words in error. */
int exec_credential_take(struct kube_access *access, const char *text, size_t len,
                         char error[KUBECONFIG_ERROR_MAX]);

#endif
