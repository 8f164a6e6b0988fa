{{- define "bruma.image" -}}
{{- if contains "/" .Values.image -}}{{ .Values.image }}{{- else -}}{{ .Values.global.hub }}/{{ .Values.image }}:{{ .Values.global.tag }}{{ with .Values.global.variant }}-{{ . }}{{ end }}{{- end -}}
{{- end -}}

{{- define "bruma.pullSecrets" -}}
{{- with .Values.global.imagePullSecrets }}
imagePullSecrets:
{{- range . }}
  - name: {{ . }}
{{- end }}
{{- end }}
{{- end -}}

{{/* The platform, by either of the names that Istio's charts have for it. */}}
{{- define "bruma.platform" -}}
{{- coalesce .Values.platform .Values.global.platform | default "" -}}
{{- end -}}

{{/* What files/platforms.yaml says of it; a platform that is not there is refused. */}}
{{- define "bruma.ofPlatform" -}}
{{- $known := .Files.Get "files/platforms.yaml" | fromYaml -}}
{{- $platform := include "bruma.platform" . -}}
{{- if and $platform (not (hasKey $known $platform)) -}}
{{- fail (printf "platform: %q is not known; known are %s. For others set cni.cniConfDir, cni.cniBinDir, cni.cniNetnsDir and cni.criSocket" $platform (keys $known | sortAlpha | join ", ")) -}}
{{- end -}}
{{- get $known $platform | default dict | toYaml -}}
{{- end -}}

{{/* Paths of the nodes: what the user has set to something else than the default, then the platform's, then the default. */}}
{{- define "bruma.paths" -}}
{{- $of := include "bruma.ofPlatform" . | fromYaml -}}
{{- $c := .Values.cni -}}
conf: {{ ternary ($of.cniConfDir | default $c.cniConfDir) $c.cniConfDir (eq $c.cniConfDir "/etc/cni/net.d") }}
bin: {{ ternary ($of.cniBinDir | default $c.cniBinDir) $c.cniBinDir (eq $c.cniBinDir "/opt/cni/bin") }}
netns: {{ ternary ($of.cniNetnsDir | default $c.cniNetnsDir) $c.cniNetnsDir (eq $c.cniNetnsDir "/var/run/netns") }}
cri: {{ ternary ($of.criSocket | default $c.criSocket) $c.criSocket (eq $c.criSocket "/run/containerd/containerd.sock") }}
{{- end -}}

{{- define "bruma.quota" -}}
{{- if or .quotas.enabled (include "bruma.ofPlatform" .root | fromYaml).resourceQuotas }}
---
apiVersion: v1
kind: ResourceQuota
metadata:
  name: {{ .name }}-resource-quota
  namespace: {{ .root.Release.Namespace }}
  labels: {{- include "bruma.labels" .root | nindent 4 }}
spec:
  hard:
    pods: {{ .quotas.pods | quote }}
  scopeSelector:
    matchExpressions:
      - operator: In
        scopeName: PriorityClass
        values: [system-node-critical]
{{- end }}
{{- end -}}

{{- define "bruma.container" -}}
image: {{ include "bruma.image" . }}
{{- with .Values.global.imagePullPolicy }}
imagePullPolicy: {{ . }}
{{- end }}
{{- end -}}

{{/* Environment of both programs; what an image says itself stands where a value is empty. */}}
{{- define "bruma.compliance" -}}
{{- with .Values.global.compliancePolicy }}
- {name: COMPLIANCE_POLICY, value: {{ . }}}
{{- end }}
{{- if .Values.global.tls12 }}
- {name: TLS12_ENABLED, value: "true"}
{{- end }}
{{- end -}}

{{- define "bruma.labels" -}}
app.kubernetes.io/part-of: bruma
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end -}}

{{/* Values of Istio's charts that have one answer here. Better refused than without an effect. */}}
{{- define "bruma.check" -}}
{{- $c := .Values.cni -}}
{{- if not $c.chained }}{{ fail "cni.chained=false: bruma-cni is always the last plugin of the network that the runtime loads; there is nothing that it could do alone" }}{{ end -}}
{{- if ne $c.provider "default" }}{{ fail (printf "cni.provider=%s: only \"default\"; with Multus the entry goes into its own default network too" $c.provider) }}{{ end -}}
{{- if $c.cniConfFileName }}{{ fail "cni.cniConfFileName: the agent always follows the file that the runtime really loads; a remembered name would leave new pods out. For a list of its own see cni.istioOwnedCNIConfig" }}{{ end -}}
{{- if $c.repair.enabled }}{{ fail "cni.repair.enabled=true: there are no sidecars to repair; pods that started uncaptured are always found and captured" }}{{ end -}}
{{- if not $c.ambient.enabled }}{{ fail "cni.ambient.enabled=false: Bruma is an ambient mesh and nothing else" }}{{ end -}}
{{- if not $c.ambient.ipv6 }}{{ fail "cni.ambient.ipv6=false: a pod that has IPv6 is captured on IPv6; it would have a way around the mesh otherwise" }}{{ end -}}
{{- if not $c.ambient.shareHostNetworkNamespace }}{{ fail "cni.ambient.shareHostNetworkNamespace=false: the agent is always in the node's network, so that it does not depend on the plugin that it serves" }}{{ end -}}
{{- if not $c.ambient.enableAmbientDetectionRetry }}{{ fail "cni.ambient.enableAmbientDetectionRetry=false: a pod about which nobody can decide is always tried again, never let run outside the mesh" }}{{ end -}}
{{- if .Values.global.defaultResources }}{{ fail "global.defaultResources: each DaemonSet has its own, cni.resources and ztunnel.resources" }}{{ end -}}
{{- if not (has .Values.global.variant (list "" "fips")) }}{{ fail "global.variant: there is one image, without a distribution in it, and \"fips\"" }}{{ end -}}
{{- if and .Values.global.tls12 (eq .Values.global.compliancePolicy "pqc") }}{{ fail "global.tls12=true: TLS 1.2 has no group of the policy pqc" }}{{ end -}}
{{- end -}}

{{- define "bruma.clusterScope" -}}{{ if has .Values.global.resourceScope (list "all" "cluster") }}yes{{ end }}{{- end -}}
{{- define "bruma.namespaceScope" -}}{{ if has .Values.global.resourceScope (list "all" "namespace") }}yes{{ end }}{{- end -}}

{{/* The ConfigMap with Istio's mesh configuration, as istiod's chart names it. */}}
{{- define "bruma.meshConfig" -}}
istio{{ with .Values.revision }}-{{ . }}{{ end }}
{{- end }}
