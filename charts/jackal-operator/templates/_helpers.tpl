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
