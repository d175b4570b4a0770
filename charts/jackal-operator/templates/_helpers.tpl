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

{{/* What a ValidatingAdmissionPolicy is asked of: every write of a spec, but not what the operator does to objects
that stand already, such as removing their finalizers. */}}
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

{{/* The images of a package or of an image's object, as a list of lists. */}}
{{- define "jackal-operator.images" -}}
- name: images
  expression: >-
    has(object.spec.components) ?
    object.spec.components.map(component, has(component.images) ? component.images : []) : [[object.spec]]
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

{{/* What chooses the pods of a component: (dict "root" . "component" "controller"). Never changes. */}}
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

{{/* The Secret with the login of the operator's registry, if there is one. */}}
{{- define "jackal-operator.registryLogin" -}}
{{- with .Values.registry -}}
{{- if .secretName -}}
{{ .secretName }}
{{- else if .deploy.enabled -}}
{{ include "jackal-operator.registry" $ }}-login
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

{{/* Whether there are authorities that controller and agents trust besides the public ones; empty for no. */}}
{{- define "jackal-operator.hasCaBundle" -}}
{{- with .Values.caBundle -}}
{{- if and .configMapName .secretName -}}
{{- fail "caBundle.configMapName and caBundle.secretName both name the bundle: set one of them" -}}
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

{{/* The environment that controller and agents share. A variable that is empty is not an absent one: only what is
set is written. */}}
{{- define "jackal-operator.environment" -}}
- name: POD_NAMESPACE
  valueFrom: {fieldRef: {fieldPath: metadata.namespace}}
- name: JACKAL_LISTEN
  value: {{ printf "%s:8080" .Values.settings.listenAddress | quote }}
{{- $registry := .Values.registry }}
{{- $address := include "jackal-operator.registryAddress" . }}
{{- if not (or $address (and (not $registry.prefix) (not $registry.secretName) (not $registry.certSecretName) (not $registry.insecure))) }}
{{- fail "registry.prefix, secretName, certSecretName and insecure are about registry.address: set it too" }}
{{- end }}
{{- $set := dict
  "JACKAL_WATCH_NAMESPACE" .Values.settings.watchNamespace
  "JACKAL_REGISTRY_ADDRESS" $address
  "JACKAL_REGISTRY_ENDPOINT" (include "jackal-operator.registryEndpoint" .)
  "JACKAL_REGISTRY_PREFIX" $registry.prefix
  "JACKAL_REGISTRY_SECRET" (include "jackal-operator.registryLogin" .)
  "JACKAL_REGISTRY_CERT_SECRET" $registry.certSecretName
  "JACKAL_REGISTRY_INSECURE" (or $registry.insecure (and $registry.deploy.enabled (not $registry.endpoint)) | ternary "true" "")
  "JACKAL_CA_FILE" (include "jackal-operator.hasCaBundle" . | empty | ternary "" "/etc/jackal-ca/ca.crt")
  "JACKAL_INSECURE_REGISTRIES" (join "," .Values.settings.insecureRegistries)
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

{{/* Health and metrics, and how kubelets ask for them. */}}
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

{{- define "jackal-operator.registryConfig" -}}
version: 0.1
log: {level: info}
storage:
  filesystem: {rootdirectory: /var/lib/registry}
  # What retention and deletionPolicy delete.
  delete: {enabled: true}
http:
  addr: :5000
auth:
  htpasswd:
    realm: registry
    path: /etc/jackal-registry-auth/htpasswd
{{- end -}}

{{/* A pod of `helm test`: the operator's own image, for a cluster without internet has no other. */}}
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
