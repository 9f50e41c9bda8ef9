{{- define "cachestore.name" -}}
{{- /* KubeRay appends up to 13 characters to the cluster's name, and a label holds 63. */ -}}
{{- if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 45 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 45 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "cachestore.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "cachestore.labels" -}}
{{ include "cachestore.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "cachestore.serviceAccount" -}}
{{- $own := ternary (include "cachestore.name" .) "default" .Values.serviceAccount.create -}}
{{- .Values.serviceAccount.name | default $own -}}
{{- end -}}

{{- define "cachestore.tokenSecret" -}}
{{- .Values.ray.tokenSecret | default (printf "%s-ray-token" (include "cachestore.name" .)) -}}
{{- end -}}

{{- define "cachestore.image" -}}
{{- $name := required "image.repository: name an image that holds kv-cachestore[all]" .Values.image.repository -}}
{{- printf "%s:%s" $name (.Values.image.tag | default .Chart.AppVersion | toString) -}}
{{- end -}}

{{- /* What cannot work is refused before it reaches the cluster. */ -}}
{{- define "cachestore.check" -}}
{{- if not .Values.configSecret -}}
{{- $_ := required "engine.model: name a Hugging Face model directory inside the pod" .Values.engine.model -}}
{{- if not (has .Values.service.host (list "127.0.0.1" "::1" "localhost")) -}}
{{- fail (printf "service.host: %s is not loopback; without authentication keep 127.0.0.1" .Values.service.host) -}}
{{- end -}}
{{- range .Values.tiers -}}
{{- if regexMatch "://[^/]*@" (.url | default "") -}}
{{- fail (printf "tiers: the url of %s carries a password, which a ConfigMap would show; use configSecret" .name) -}}
{{- end -}}
{{- end -}}
{{- range .Values.tiers -}}
{{- if or .password .sentinel_password -}}
{{- fail (printf "tiers: %s has a password, which a ConfigMap would show; use configSecret" .name) -}}
{{- end -}}
{{- end -}}
{{- if and .Values.expose.enabled (not .Values.expose.tlsSecret) (not .Values.expose.from) -}}
{{- fail "expose.tlsSecret: without it keys and prompts travel for everybody to read; name who speaks TLS before the gateway in expose.from" -}}
{{- end -}}
{{- if and (gt (int .Values.cluster.num_gpus) 0) (lt (int .Values.resources.gpus) 1) -}}
{{- fail "cluster.num_gpus: the replicas ask for GPUs but the pod has none; set resources.gpus" -}}
{{- end -}}
{{- end -}}
{{- if and .Values.expose.enabled (not .Values.expose.keysSecret) -}}
{{- fail "expose.keysSecret: name a Secret with keys.toml; without keys anybody could use the model" -}}
{{- end -}}
{{- if eq (int .Values.securityContext.runAsUser) 0 -}}
{{- fail "securityContext.runAsUser: 0 is root; name another user of the image" -}}
{{- end -}}
{{- end -}}

{{- /* A value in TOML. JSON's strings, numbers and booleans are TOML's; its tables are not. */ -}}
{{- define "cachestore.tomlValue" -}}
{{- if kindIs "map" . -}}
{{- $pairs := list -}}
{{- range $key, $value := . -}}
{{- if not (kindIs "invalid" $value) -}}
{{- $name := include "cachestore.tomlKey" $key -}}
{{- $pairs = append $pairs (printf "%s = %s" $name (include "cachestore.tomlValue" $value)) -}}
{{- end -}}
{{- end -}}
{ {{- join ", " $pairs -}} }
{{- else if kindIs "slice" . -}}
{{- $items := list -}}
{{- range . -}}
{{- $items = append $items (include "cachestore.tomlValue" .) -}}
{{- end -}}
[{{- join ", " $items -}}]
{{- else -}}
{{- toJson . -}}
{{- end -}}
{{- end -}}

{{- define "cachestore.tomlKey" -}}
{{- regexMatch "^[A-Za-z0-9_-]+$" . | ternary . (toJson .) -}}
{{- end -}}

{{- /* The lines of one table; null leaves a key out, as it does elsewhere in values. */ -}}
{{- define "cachestore.tomlTable" -}}
{{- range $key, $value := . }}
{{- if not (kindIs "invalid" $value) }}
{{ include "cachestore.tomlKey" $key }} = {{ include "cachestore.tomlValue" $value }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "cachestore.gatewayPort" -}}
{{- .Values.gateway.port | default 8000 | int -}}
{{- end -}}

{{- /* The section [gateway] as YAML: what exposing it needs counts, whatever else is said. */ -}}
{{- define "cachestore.gateway" -}}
{{- $given := deepCopy .Values.gateway -}}
{{- if .Values.expose.enabled -}}
{{- $needed := dict "host" "0.0.0.0" "port" (include "cachestore.gatewayPort" . | int) "keys" "/keys/keys.toml" -}}
{{- if .Values.expose.tlsSecret -}}
{{- $_ := merge $needed (dict "tls_cert" "/keys/tls.crt" "tls_key" "/keys/tls.key") -}}
{{- else -}}
{{- $_ := set $needed "insecure" true -}}
{{- end -}}
{{- $given = merge $needed $given -}}
{{- end -}}
{{- toJson $given -}}
{{- end -}}

{{- define "cachestore.toml" -}}
{{- range .Values.tiers }}
[[tiers]]
{{- include "cachestore.tomlTable" . }}
{{ end }}
{{- range $section := list "codecs" "eviction" "store" "service" "engine" "batch" "scheduling" "prefill_worker" "decode_worker" "cluster" }}
{{- with index $.Values $section }}
[{{ $section }}]
{{- include "cachestore.tomlTable" . }}
{{ end }}
{{- end }}
{{- with include "cachestore.gateway" . | fromJson }}
[gateway]
{{- include "cachestore.tomlTable" . }}
{{ end }}
{{- end -}}

{{- /* What both containers of the pod have in common: the same code as the same user, seeing the same files. */ -}}
{{- define "cachestore.container" -}}
image: {{ include "cachestore.image" . | quote }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
env:
  - name: RAY_AUTH_MODE
    value: token
  - name: RAY_AUTH_TOKEN
    valueFrom:
      secretKeyRef:
        name: {{ include "cachestore.tokenSecret" . }}
        key: auth_token
  # after the default 60 s without Ray's control plane the data plane would exit too, although it needs none
  - name: RAY_gcs_rpc_server_reconnect_timeout_s
    value: "3600"
  - name: RAY_USAGE_STATS_ENABLED
    value: "0"
  # the root file system is read-only, and some libraries keep caches below HOME
  - name: HOME
    value: /tmp
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities:
    drop: [ALL]
volumeMounts:
  - name: config
    mountPath: /etc/cachestore
    readOnly: true
  - name: shm
    mountPath: /dev/shm
  - name: scratch
    mountPath: /tmp
  {{- if .Values.modelVolume }}
  - name: models
    mountPath: /models
    readOnly: true
  {{- end }}
  {{- if .Values.expose.enabled }}
  - name: keys
    mountPath: /keys
    readOnly: true
  {{- end }}
{{- end -}}
