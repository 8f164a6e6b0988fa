/* SPDX-License-Identifier: Apache-2.0 */
/* The file BRUMA_DECISIONS (bruma/protocol.h), for a node whose agent does not answer. */
#ifndef CNI_DECISIONS_H
#define CNI_DECISIONS_H

#include <stdbool.h>

#include "cni/request.h"

/* While no agent answers: whether the last one has left word that the pod of an ADD is outside the mesh.
 * Whatever is missing, too old or not understood: false. */
bool decisions_outside(const struct cni_request *request);

#endif
