{{- define "holdfast.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 50 | trimSuffix "-" -}}
{{- end -}}

{{- define "holdfast.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" -}}
{{- else if contains (include "holdfast.name" .) .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "holdfast.name" .) | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "holdfast.headless" -}}
{{ include "holdfast.fullname" . }}-headless
{{- end -}}

{{- define "holdfast.secretName" -}}
{{ default (include "holdfast.fullname" .) .Values.secret.existingSecret }}
{{- end -}}

{{- define "holdfast.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{ default (include "holdfast.fullname" .) .Values.serviceAccount.name }}
{{- else -}}
{{ default "default" .Values.serviceAccount.name }}
{{- end -}}
{{- end -}}

{{- define "holdfast.selectorLabels" -}}
app.kubernetes.io/name: {{ include "holdfast.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "holdfast.labels" -}}
{{ include "holdfast.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{/* A pod's DNS name behind the headless Service. */}}
{{- define "holdfast.podDomain" -}}
{{ include "holdfast.headless" . }}.{{ .Release.Namespace }}.svc.{{ .Values.clusterDomain }}
{{- end -}}

{{/* A value of holdfast.toml. JSON is TOML for strings, numbers, booleans and lists of these. */}}
{{- define "holdfast.tomlValue" -}}
{{- if kindIs "map" . -}}
{ {{- $first := true -}}
{{- range $key, $value := . }}{{ if not $first }}, {{ end }}{{ $first = false }}{{ $key }} = {{ include "holdfast.tomlValue" $value }}{{ end -}}
}
{{- else if kindIs "float64" . -}}
{{- if eq (floor .) . }}{{ int64 . }}{{ else }}{{ . }}{{ end -}}
{{- else -}}
{{ toRawJson . }}
{{- end -}}
{{- end -}}

{{/* holdfast.toml. */}}
{{- define "holdfast.toml" -}}
{{- $root := . -}}
{{- $peers := list -}}
{{- range $index := until (int .Values.replicaCount) -}}
{{- $peers = append $peers (printf "%d@%s-%d.%s:7400" (add1 $index) (include "holdfast.fullname" $root) $index (include "holdfast.podDomain" $root)) -}}
{{- end -}}
{{- $cluster := dict "listen" "0.0.0.0:7400" "peers" $peers "secret_file" "/etc/holdfast/secret/cluster-secret" -}}
{{- /* This version keeps every shard on every node. */ -}}
{{- if gt (int .Values.replicaCount) 3 }}{{ $_ := set $cluster "replicas" (int .Values.replicaCount) }}{{ end -}}
{{- $chart := dict
  "node" (dict "id" "from-hostname" "data_dir" "/var/lib/holdfast")
  "cluster" $cluster
  "admin" (dict "bind" "0.0.0.0:8080" "token_file" "/etc/holdfast/secret/admin-tokens")
-}}
{{- range $section, $keys := mergeOverwrite (deepCopy .Values.config) $chart }}
[{{ $section }}]
{{- range $key, $value := $keys }}
{{ $key }} = {{ include "holdfast.tomlValue" $value }}
{{- end }}
{{ end }}
{{- range .Values.listeners }}
[[listener]]
name = {{ .name | quote }}
kind = {{ .kind | quote }}
bind = "0.0.0.0:{{ int .port }}"
{{- range $key, $value := .options }}
{{ $key }} = {{ include "holdfast.tomlValue" $value }}
{{- end }}
{{ end }}
{{- range .Values.acl }}
[[acl]]
{{- range $key, $value := . }}
{{ $key }} = {{ include "holdfast.tomlValue" $value }}
{{- end }}
{{ end }}
{{- end -}}
