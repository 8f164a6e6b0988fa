{{- define "bruma.image" -}}
{{- if contains "/" .Values.image -}}{{ .Values.image }}{{- else -}}{{ .Values.global.hub }}/{{ .Values.image }}:{{ .Values.global.tag }}{{- end -}}
{{- end -}}

{{- define "bruma.imagePull" -}}
{{- with .Values.global.imagePullPolicy }}
imagePullPolicy: {{ . }}
{{- end }}
{{- end -}}

{{- define "bruma.pullSecrets" -}}
{{- with .Values.global.imagePullSecrets }}
imagePullSecrets:
{{- range . }}
  - name: {{ . }}
{{- end }}
{{- end }}
{{- end -}}

{{/* Directories of a platform. What the user has set to something else than the default wins. */}}
{{- define "bruma.paths" -}}
{{- $conf := dict "k3d" "/var/lib/rancher/k3s/agent/etc/cni/net.d" "k3s" "/var/lib/rancher/k3s/agent/etc/cni/net.d" "microk8s" "/var/snap/microk8s/current/args/cni-network" "openshift" "/etc/cni/multus/net.d" -}}
{{- $bin := dict "gke" "/home/kubernetes/bin" "k3d" "/bin" "k3s" "/var/lib/rancher/k3s/data/cni" "microk8s" "/var/snap/microk8s/current/opt/cni/bin" "openshift" "/var/lib/cni/bin" -}}
{{- $netns := dict "minikube" "/var/run/docker/netns" -}}
{{- $p := .Values.global.platform -}}
conf: {{ ternary (get $conf $p | default .Values.cni.cniConfDir) .Values.cni.cniConfDir (eq .Values.cni.cniConfDir "/etc/cni/net.d") }}
bin: {{ ternary (get $bin $p | default .Values.cni.cniBinDir) .Values.cni.cniBinDir (eq .Values.cni.cniBinDir "/opt/cni/bin") }}
netns: {{ ternary (get $netns $p | default .Values.cni.cniNetnsDir) .Values.cni.cniNetnsDir (eq .Values.cni.cniNetnsDir "/var/run/netns") }}
{{- end -}}

{{- define "bruma.labels" -}}
app.kubernetes.io/part-of: bruma
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end -}}
