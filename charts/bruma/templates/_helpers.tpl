{{- define "bruma.image" -}}
{{- if contains "/" .Values.image -}}{{ .Values.image }}{{- else -}}{{ .Values.global.hub }}/{{ .Values.image }}:{{ .Values.global.tag }}{{- end -}}
{{- end -}}

{{- define "bruma.pullSecrets" -}}
{{- with .Values.global.imagePullSecrets }}
imagePullSecrets:
{{- range . }}
  - name: {{ . }}
{{- end }}
{{- end }}
{{- end -}}

{{/* Paths of a platform. What the user has set to something else than the default wins. */}}
{{- define "bruma.paths" -}}
{{- $conf := dict "k3d" "/var/lib/rancher/k3s/agent/etc/cni/net.d" "k3s" "/var/lib/rancher/k3s/agent/etc/cni/net.d" "microk8s" "/var/snap/microk8s/current/args/cni-network" "openshift" "/etc/kubernetes/cni/net.d" -}}
{{- $bin := dict "gke" "/home/kubernetes/bin" "k3d" "/bin" "k3s" "/var/lib/rancher/k3s/data/cni" "microk8s" "/var/snap/microk8s/current/opt/cni/bin" "openshift" "/var/lib/cni/bin" -}}
{{- $netns := dict "minikube" "/var/run/docker/netns" -}}
{{- $cri := dict "k3d" "/run/k3s/containerd/containerd.sock" "k3s" "/run/k3s/containerd/containerd.sock" "microk8s" "/var/snap/microk8s/common/run/containerd.sock" "minikube" "/run/cri-dockerd.sock" "openshift" "/run/crio/crio.sock" -}}
{{- $p := .Values.global.platform -}}
{{- $c := .Values.cni -}}
conf: {{ ternary (get $conf $p | default $c.cniConfDir) $c.cniConfDir (eq $c.cniConfDir "/etc/cni/net.d") }}
bin: {{ ternary (get $bin $p | default $c.cniBinDir) $c.cniBinDir (eq $c.cniBinDir "/opt/cni/bin") }}
netns: {{ ternary (get $netns $p | default $c.cniNetnsDir) $c.cniNetnsDir (eq $c.cniNetnsDir "/var/run/netns") }}
cri: {{ ternary (get $cri $p | default $c.criSocket) $c.criSocket (eq $c.criSocket "/run/containerd/containerd.sock") }}
{{- end -}}

{{/* GKE admits pods of this priority outside kube-system only where a quota says how many. */}}
{{- define "bruma.quota" -}}
{{- if or .quotas.enabled (eq .root.Values.global.platform "gke") }}
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

{{- define "bruma.labels" -}}
app.kubernetes.io/part-of: bruma
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end -}}
