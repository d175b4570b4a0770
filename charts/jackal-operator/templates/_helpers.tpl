{{- define "jackal-operator.name" -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- end -}}

{{- define "jackal-operator.controller" -}}
{{- .Values.controller.serviceAccountName | default (include "jackal-operator.name" .) -}}
{{- end -}}

{{- define "jackal-operator.agent" -}}
{{- .Values.agent.serviceAccountName | default (printf "%s-agent" (include "jackal-operator.name" .)) -}}
{{- end -}}

{{- define "jackal-operator.labels" -}}
app.kubernetes.io/name: jackal-operator
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{/* The requests that the admission policies check: every write of a spec, but not what the operator does to existing
objects, such as removing finalizers. */}}
{{- define "jackal-operator.specs" -}}
failurePolicy: Fail
matchConstraints:
  resourceRules:
  - apiGroups: [jackal.dev]
    apiVersions: ["*"]
    operations: [CREATE, UPDATE]
    resources: [jackalpackages, jackalimages]
matchConditions:
- name: spec-is-new
  expression: request.operation == 'CREATE' || object.spec != oldObject.spec
{{- end -}}

{{/* The images of a JackalPackage or a JackalImage, as a list of lists. */}}
{{- define "jackal-operator.images" -}}
- name: images
  expression: >-
    has(object.spec.components) ?
    object.spec.components.map(component, has(component.images) ? component.images : []) :
    has(object.spec.from) ? [] : [[object.spec]]
{{- end -}}

{{- define "jackal-operator.binding" -}}
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata:
  name: {{ .name }}
  labels: {{- include "jackal-operator.labels" .root | nindent 4 }}
spec:
  policyName: {{ .name }}
  validationActions: [Deny]
{{- end -}}

{{/* The binding of the role of the same name to the ServiceAccount `account`: (dict "root" . "kind" "ClusterRole" "name" "x"
"account" "y"), with "namespace" for a Role. */}}
{{- define "jackal-operator.roleBinding" -}}
apiVersion: rbac.authorization.k8s.io/v1
kind: {{ .kind }}Binding
metadata:
  name: {{ .name }}
  {{- with .namespace }}
  namespace: {{ . }}
  {{- end }}
  labels: {{- include "jackal-operator.labels" .root | nindent 4 }}
roleRef:
  apiGroup: rbac.authorization.k8s.io
  kind: {{ .kind }}
  name: {{ .name }}
subjects:
- kind: ServiceAccount
  name: {{ .account }}
  namespace: {{ .root.Release.Namespace }}
{{- end -}}

{{/* The head of a role: (dict "root" . "kind" "Role" "name" "x" "namespace" "y"). */}}
{{- define "jackal-operator.role" -}}
apiVersion: rbac.authorization.k8s.io/v1
kind: {{ .kind }}
metadata:
  name: {{ .name }}
  {{- with .namespace }}
  namespace: {{ . }}
  {{- end }}
  labels: {{- include "jackal-operator.labels" .root | nindent 4 }}
{{- end -}}

{{/* The Secrets in the release's namespace that the operator's flags name, as a sorted JSON list without duplicates. */}}
{{- define "jackal-operator.registrySecrets" -}}
{{- list (include "jackal-operator.registryLogin" .) (include "jackal-operator.registryAuthority" .) | compact | uniq | sortAlpha | toJson -}}
{{- end -}}

{{/* The permission to read the addresses of the API server, to which objects may not make the operator connect:
(dict "root" . "account" "x"). */}}
{{- define "jackal-operator.apiServerRole" -}}
{{- $name := printf "%s-%s-api-server" .root.Release.Namespace .account }}
{{- $role := dict "root" .root "kind" "Role" "name" $name "account" .account "namespace" "default" }}
---
{{ include "jackal-operator.role" $role }}
rules:
- apiGroups: [discovery.k8s.io]
  resources: [endpointslices]
  resourceNames: [kubernetes]
  verbs: [get]
---
{{ include "jackal-operator.roleBinding" $role }}
{{- end -}}

{{/* The permission to read the Secret in registry.stateSecret, whose namespace must exist: (dict "root" . "account" "x"). */}}
{{- define "jackal-operator.stateRole" -}}
{{- with .root.Values.registry.stateSecret -}}
{{- $parts := splitList "/" . }}
{{- if eq (len $parts) 2 }}
{{- $state := dict "root" $.root "kind" "Role" "name" (printf "%s-state" $.account) "account" $.account "namespace" (first $parts) }}
---
{{ include "jackal-operator.role" $state }}
rules:
- apiGroups: [""]
  resources: [secrets]
  resourceNames: [{{ last $parts }}]
  verbs: [get]
---
{{ include "jackal-operator.roleBinding" $state }}
{{- end }}
{{- end }}
{{- end -}}

{{/* The selector of a component's pods: (dict "root" . "component" "controller"). It is immutable. */}}
{{- define "jackal-operator.selector" -}}
app.kubernetes.io/name: jackal-operator
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{/* The labels of a component's objects. */}}
{{- define "jackal-operator.componentLabels" -}}
{{ include "jackal-operator.labels" .root }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{- define "jackal-operator.image" -}}
{{- with .Values.image -}}
{{- if .digest -}}
{{ .repository }}@{{ .digest }}
{{- else -}}
{{ .repository }}:{{ .tag | default $.Chart.AppVersion }}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "jackal-operator.registry" -}}
{{- printf "%s-registry" (include "jackal-operator.name" .) -}}
{{- end -}}

{{/* The Secret with the credentials for the operator's registry, or nothing. */}}
{{- define "jackal-operator.registryLogin" -}}
{{- with .Values.registry -}}
{{- if .secretName -}}
{{ .secretName }}
{{- else if .deploy.enabled -}}
{{ include "jackal-operator.registry" $ }}-login
{{- end -}}
{{- end -}}
{{- end -}}

{{/* The Secret with the authority of the operator's registry, or nothing. */}}
{{- define "jackal-operator.registryAuthority" -}}
{{- with .Values.registry -}}
{{- $tls := .deploy.tls -}}
{{- if .certSecretName -}}
{{ .certSecretName }}
{{- else if and .deploy.enabled $tls.enabled (not .endpoint) (not $tls.existingSecret) (not $tls.issuerRef) -}}
{{ include "jackal-operator.registry" $ }}-ca
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "jackal-operator.registryAddress" -}}
{{- with .Values.registry -}}
{{- if .address -}}
{{ .address }}
{{- else if .deploy.enabled -}}
127.0.0.1:{{ .deploy.nodePort }}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "jackal-operator.registryEndpoint" -}}
{{- with .Values.registry -}}
{{- if .endpoint -}}
{{ .endpoint }}
{{- else if .deploy.enabled -}}
{{ include "jackal-operator.registry" $ }}.{{ $.Release.Namespace }}.svc:5000
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Whether caBundle is set; empty if not. */}}
{{- define "jackal-operator.hasCaBundle" -}}
{{- with .Values.caBundle -}}
{{- if and .configMapName .secretName -}}
{{- fail "caBundle.configMapName and caBundle.secretName are mutually exclusive: set one of them" -}}
{{- end -}}
{{- or .configMapName .secretName -}}
{{- end -}}
{{- end -}}

{{- define "jackal-operator.caBundleVolume" -}}
- name: ca-bundle
  {{- with .Values.caBundle }}
  {{- if .configMapName }}
  configMap: {name: {{ .configMapName }}, items: [{key: {{ .key | quote }}, path: ca.crt}]}
  {{- else }}
  secret: {secretName: {{ .secretName }}, items: [{key: {{ .key | quote }}, path: ca.crt}]}
  {{- end }}
  {{- end }}
{{- end -}}

{{- define "jackal-operator.caBundleMount" -}}
- name: ca-bundle
  mountPath: /etc/jackal-ca
  readOnly: true
{{- end -}}

{{/* The environment of the controller and the agents. An empty variable differs from an absent one, so only set values are
written. */}}
{{- define "jackal-operator.environment" -}}
- name: POD_NAMESPACE
  valueFrom: {fieldRef: {fieldPath: metadata.namespace}}
- name: JACKAL_LISTEN
  value: {{ printf "%s:8080" .Values.settings.listenAddress | quote }}
{{- $registry := .Values.registry }}
{{- $address := include "jackal-operator.registryAddress" . }}
{{- if not (or $address (and (not $registry.prefix) (not $registry.secretName) (not $registry.certSecretName) (not $registry.insecure))) }}
{{- fail "registry.prefix, secretName, certSecretName and insecure require registry.address: set it too" }}
{{- end }}
{{- $set := dict
  "JACKAL_WATCH_NAMESPACE" .Values.settings.watchNamespace
  "JACKAL_REGISTRY_ADDRESS" $address
  "JACKAL_REGISTRY_ENDPOINT" (include "jackal-operator.registryEndpoint" .)
  "JACKAL_REGISTRY_PREFIX" $registry.prefix
  "JACKAL_REGISTRY_SECRET" (include "jackal-operator.registryLogin" .)
  "JACKAL_REGISTRY_CERT_SECRET" (include "jackal-operator.registryAuthority" .)
  "JACKAL_REGISTRY_INSECURE" (or $registry.insecure (and $registry.deploy.enabled (not $registry.endpoint) (not $registry.deploy.tls.enabled)) | ternary "true" "")
  "JACKAL_CA_FILE" (include "jackal-operator.hasCaBundle" . | empty | ternary "" "/etc/jackal-ca/ca.crt")
  "JACKAL_STATE_SECRET" $registry.stateSecret
  "JACKAL_INSECURE_REGISTRIES" (join "," .Values.settings.insecureRegistries)
  "JACKAL_ALLOWED_NETWORKS" (join "," .Values.settings.allowedNetworks)
  "JACKAL_UPLOAD_HOSTS" (join "," .Values.settings.uploadHosts)
  "JACKAL_REPOSITORY_POLICY" .Values.settings.repositoryPolicy
  "JACKAL_SOURCE_HOSTS" (join "," .Values.settings.sourceHosts)
  "JACKAL_CONCURRENCY" (.Values.settings.concurrency | toString)
  "JACKAL_CONNECTIONS" (.Values.settings.connections | toString)
  "JACKAL_REQUEST_RATE" (.Values.settings.requestRate | default "" | toString)
  "JACKAL_INTERVAL" .Values.settings.interval
  "JACKAL_STALL_TIMEOUT" .Values.settings.stallTimeout
  "JACKAL_MAX_STALL_TIMEOUT" .Values.settings.maxStallTimeout
  "JACKAL_MIN_THROUGHPUT" (.Values.settings.minThroughput | toString)
  "JACKAL_RETRY_LIMIT" .Values.settings.retryLimit
  "JACKAL_LOG" .Values.settings.log
  "JACKAL_LOG_FORMAT" .Values.settings.logFormat }}
{{- range $name := keys $set | sortAlpha }}
{{- with get $set $name }}
- name: {{ $name }}
  value: {{ quote . }}
{{- end }}
{{- end }}
{{- end -}}

{{/* The port of health and metrics, and the probes. */}}
{{- define "jackal-operator.http" -}}
ports:
- name: http
  containerPort: 8080
livenessProbe:
  httpGet: {path: /healthz, port: http}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 6
readinessProbe:
  httpGet: {path: /readyz, port: http}
  periodSeconds: 5
  timeoutSeconds: 5
{{- end -}}

{{/* How container runtimes reach the deployed registry: `NodePort` or `NodeProxy`; empty without one. */}}
{{- define "jackal-operator.registryExpose" -}}
{{- with .Values.registry -}}
{{- if not .deploy.enabled -}}
{{- else if ne .expose "Auto" -}}
{{ .expose }}
{{- else -}}
{{- $cilium := lookup "v1" "ConfigMap" "kube-system" "cilium-config" -}}
{{- $map := lookup "v1" "ConfigMap" "kube-system" "kube-proxy" -}}
{{- $config := index ($map.data | default dict) "config.conf" | default "" | fromYaml -}}
{{- $daemon := lookup "apps/v1" "DaemonSet" "kube-system" "kube-proxy" | toJson -}}
{{- if has (index ($cilium.data | default dict) "kube-proxy-replacement" | default "") (list "true" "strict") -}}
NodePort
{{- else if or (has ($config.mode | default "") (list "nftables" "ipvs")) (regexMatch "\"--proxy-mode(=|\",\")(nftables|ipvs)\"" $daemon) -}}
NodeProxy
{{- else -}}
NodePort
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Whether the registry's read-only process serves HTTPS; empty if not. The proxies verify certificates, and serve runtimes
that know HTTP only. */}}
{{- define "jackal-operator.registryPullTls" -}}
{{- $tls := .Values.registry.deploy.tls -}}
{{- if and $tls.enabled (or $tls.pull (eq (include "jackal-operator.registryExpose" .) "NodeProxy")) -}}true{{- end -}}
{{- end -}}

{{/* The Secret with the authority of the deployed registry's own certificate, or nothing. */}}
{{- define "jackal-operator.registryOwnAuthority" -}}
{{- with .Values.registry -}}
{{- if .certSecretName -}}
{{ .certSecretName }}
{{- else if and .deploy.tls.enabled (not .deploy.tls.existingSecret) (not .deploy.tls.issuerRef) -}}
{{ include "jackal-operator.registry" $ }}-ca
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Whether the registry's storage is not a volume of each pod; empty if it is. Also refuses impossible storage. */}}
{{- define "jackal-operator.registryShared" -}}
{{- with .Values.registry.deploy -}}
{{- if and .storage.s3 .persistence.existingClaim -}}
{{- fail "registry.deploy.storage.s3 and registry.deploy.persistence.existingClaim are mutually exclusive: set one of them" -}}
{{- end -}}
{{- $replicated := gt (int .replicas) 1 -}}
{{- if and $replicated (not .storage.s3) (not (and .persistence.enabled (eq .persistence.accessMode "ReadWriteMany"))) -}}
{{- fail "registry.deploy.replicas greater than 1 needs storage that all replicas share: set registry.deploy.persistence.accessMode to ReadWriteMany, with a storage class that supports it, or set registry.deploy.storage.s3" -}}
{{- end -}}
{{- if or $replicated .storage.s3 (and .persistence.enabled .persistence.existingClaim) -}}true{{- end -}}
{{- end -}}
{{- end -}}

{{/* The configuration of one of the registry's two processes: (dict "root" . "reads" true) for the read-only one. */}}
{{- define "jackal-operator.registryConfig" -}}
{{- $tls := .root.Values.registry.deploy.tls -}}
version: 0.1
log: {level: info}
storage:
  {{- with .root.Values.registry.deploy.storage.s3 }}
  s3: {{- toYaml . | nindent 4 }}
  # Nodes may not reach the storage, and the credentials for it are the registry's.
  redirect: {disable: true}
  {{- else }}
  filesystem: {rootdirectory: /var/lib/registry}
  {{- end }}
  {{- if .reads }}
  maintenance:
    readonly: {enabled: true}
    # The read-write process purges uploads.
    uploadpurging: {enabled: false}
  {{- else }}
  # For retention and deletionPolicy.
  delete: {enabled: true}
  {{- end }}
http:
  addr: {{ .reads | ternary ":5001" ":5000" }}
  {{- if .reads | ternary (include "jackal-operator.registryPullTls" .root) $tls.enabled }}
  tls:
    certificate: /etc/jackal-registry-tls/tls.crt
    key: /etc/jackal-registry-tls/tls.key
    minimumtls: tls1.2
  {{- end }}
auth:
  htpasswd:
    realm: registry
    path: /etc/jackal-registry-auth/{{ .reads | ternary "pull-htpasswd" "htpasswd" }}
{{- end -}}

{{/* The specification of a claim of the registry. */}}
{{- define "jackal-operator.registryClaim" -}}
{{- with .Values.registry.deploy.persistence -}}
accessModes: [{{ .accessMode }}]
{{- with .storageClass }}
storageClassName: {{ . }}
{{- end }}
resources: {requests: {storage: {{ .size }}}}
{{- end -}}
{{- end -}}

{{/* The issuer of the registry's certificate: `chart` or `cert-manager`; empty if the chart does not manage it. */}}
{{- define "jackal-operator.registryIssuer" -}}
{{- $deploy := .Values.registry.deploy -}}
{{- $tls := $deploy.tls -}}
{{- if and $deploy.enabled $tls.enabled (not $tls.existingSecret) -}}
{{- if ne $tls.issuer "auto" -}}
{{ $tls.issuer }}
{{- else -}}
{{ .Capabilities.APIVersions.Has "cert-manager.io/v1" | ternary "cert-manager" "chart" }}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* The Secret with the registry's certificate. The names for cert-manager and for the chart differ, so that neither
overwrites the other's. */}}
{{- define "jackal-operator.registryTlsSecret" -}}
{{- $name := include "jackal-operator.registry" . -}}
{{- .Values.registry.deploy.tls.existingSecret | default (eq (include "jackal-operator.registryIssuer" .) "cert-manager" | ternary (printf "%s-issued" $name) (printf "%s-tls" $name)) -}}
{{- end -}}

{{/* The host names at which the operator and nodes reach the registry. */}}
{{- define "jackal-operator.registryNames" -}}
{{- $name := include "jackal-operator.registry" . -}}
{{- $service := printf "%s.%s" $name .Release.Namespace -}}
{{- concat (list "localhost" $name $service (printf "%s.svc" $service) (printf "%s.svc.cluster.local" $service)) .Values.registry.deploy.tls.names | uniq | toJson -}}
{{- end -}}

{{/* Generates the registry's authority and certificate, or reuses the existing ones, once per rendering, as PEM in
.Values.registry.deploy.tls.made. The key of the authority is stored only if cert-manager issues with it: each certificate
of the chart has a new authority, and the previous authority stays trusted. */}}
{{- define "jackal-operator.registryCertificate" -}}
{{- $tls := .Values.registry.deploy.tls -}}
{{- $issuer := include "jackal-operator.registryIssuer" . -}}
{{- if and $issuer (not (hasKey $tls "made")) -}}
{{- $name := include "jackal-operator.registry" . -}}
{{- $names := include "jackal-operator.registryNames" . -}}
{{- $own := eq $issuer "chart" -}}
{{- $days := $own | ternary (int $tls.days) 3650 -}}
{{- $now := now | unixEpoch | int64 -}}
{{- $kept := lookup "v1" "Secret" .Release.Namespace (printf "%s-%s" $name ($own | ternary "tls" "issuer")) -}}
{{- $of := $kept.metadata | default dict -}}
{{- $of = $of.annotations | default dict -}}
{{- $made := dict "previous" "" "names" $names "end" (index $of "jackal.dev/not-after" | default "0") -}}
{{- $renew := mul 86400 (min (int $tls.renewDays) (sub $days 1)) | int64 -}}
{{- $stands := gt (int64 $made.end) (add $now $renew) -}}
{{- if and $stands $own -}}
{{- $stands = eq (index $of "jackal.dev/names" | default "") $names -}}
{{- end -}}
{{- if $kept -}}
{{- $_ := set $made "previous" (index $kept.data ($own | ternary "ca.crt" "tls.crt") | b64dec) -}}
{{- end -}}
{{- if $stands -}}
{{- $_ := set $made "authority" $made.previous -}}
{{- $_ := set $made "crt" (index $kept.data "tls.crt" | b64dec) -}}
{{- $_ := set $made "key" (index $kept.data "tls.key" | b64dec) -}}
{{- $before := lookup "v1" "Secret" .Release.Namespace (printf "%s-ca" $name) -}}
{{- $_ := set $made "bundle" (index ($before.data | default dict) "ca.crt" | default "" | b64dec | default $made.previous) -}}
{{- else -}}
{{- $authority := genCA (printf "%s authority" $name) $days -}}
{{- $certificate := $authority -}}
{{- if $own -}}
{{- $certificate = genSignedCert $name (list "127.0.0.1" "::1") (fromJsonArray $names) $days $authority -}}
{{- end -}}
{{- $_ := set $made "authority" $authority.Cert -}}
{{- $_ := set $made "crt" $certificate.Cert -}}
{{- $_ := set $made "key" $certificate.Key -}}
{{- $_ := set $made "end" (add $now (mul 86400 $days) | toString) -}}
{{- $_ := set $made "bundle" (printf "%s%s" $authority.Cert $made.previous) -}}
{{- end -}}
{{- $_ := set $tls "made" $made -}}
{{- end -}}
{{- end -}}

{{/* A checksum that changes if the registry's pod must be restarted, because it reads its certificate at start. */}}
{{- define "jackal-operator.registryTlsChecksum" -}}
{{- if eq (include "jackal-operator.registryIssuer" .) "chart" -}}
{{- include "jackal-operator.registryCertificate" . -}}
{{- .Values.registry.deploy.tls.made.crt | sha256sum -}}
{{- else -}}
{{- $kept := lookup "v1" "Secret" .Release.Namespace (include "jackal-operator.registryTlsSecret" .) -}}
{{- index ($kept.data | default dict) "tls.crt" | default "" | sha256sum -}}
{{- end -}}
{{- end -}}

{{/* A pod of `helm test`. It uses the operator's image, because a cluster without internet access may have no other. */}}
{{- define "jackal-operator.testPod" -}}
restartPolicy: Never
automountServiceAccountToken: false
enableServiceLinks: false
{{- with .Values.imagePullSecrets }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.controller.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.controller.tolerations }}
tolerations: {{- toYaml . | nindent 0 }}
{{- end }}
securityContext:
  runAsNonRoot: true
  runAsUser: 65532
  runAsGroup: 65532
  seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "jackal-operator.testContainer" -}}
image: {{ include "jackal-operator.image" . }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
resources:
  requests: {cpu: 10m, memory: 32Mi}
  limits: {memory: 128Mi}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
{{- end -}}

{{/* The security context of a container without any privilege. */}}
{{- define "jackal-operator.restrictedContainer" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}
