/* SPDX-License-Identifier: Apache-2.0 */
/* What the API server's word means for bruma-cni while no agent answers: see decisions.h. */
#ifndef AGENT_KUBERNETES_KUBE_DECISIONS_H
#define AGENT_KUBERNETES_KUBE_DECISIONS_H

struct kube_source;

/* Begins to write the file, and ends it; the file stays. All of it on the loop. */
void kube_decisions_open(struct kube_source *s);
/* Something has changed that decisions come from; the file follows soon. */
void kube_decisions_touch(struct kube_source *s);
/* See kube_decisions_open(); harmless where it was not. */
void kube_decisions_close(struct kube_source *s);

#endif
