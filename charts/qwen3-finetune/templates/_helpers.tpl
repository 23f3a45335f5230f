{{- define "qwen3-finetune.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 52 | trimSuffix "-" }}
{{- end }}

{{- /* 52 characters, so that every suffix of this chart still fits 63. */}}
{{- define "qwen3-finetune.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 52 | trimSuffix "-" }}
{{- else if contains (include "qwen3-finetune.name" .) .Release.Name }}
{{- .Release.Name | trunc 52 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name (include "qwen3-finetune.name" .) | trunc 52 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "qwen3-finetune.selectorLabels" -}}
app.kubernetes.io/name: {{ include "qwen3-finetune.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: operator
{{- end }}

{{- define "qwen3-finetune.labels" -}}
{{ include "qwen3-finetune.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: qwen3-finetune
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{- define "qwen3-finetune.serviceAccountName" -}}
{{- default (ternary (include "qwen3-finetune.fullname" .) "default" .Values.serviceAccount.create) .Values.serviceAccount.name }}
{{- end }}

{{- /* An image reference from (dict "image" ... "version" ...). */}}
{{- define "qwen3-finetune.image" -}}
{{- $registry := ternary (printf "%s/" .image.registry) "" (ne .image.registry "") }}
{{- $version := ternary (printf "@%s" .image.digest) (printf ":%s" (default .version .image.tag)) (ne .image.digest "") }}
{{- printf "%s%s%s" $registry .image.repository $version }}
{{- end }}

{{- /* The labels that the operator puts on every pod that it makes. */}}
{{- define "qwen3-finetune.trainerLabels" -}}
app.kubernetes.io/managed-by: qwen3-finetune-operator
{{- end }}

{{- /* The operator's settings file; finetune_operator.settings reads it. */}}
{{- define "qwen3-finetune.settings" -}}
image:
  reference: {{ include "qwen3-finetune.image" (dict "image" .Values.trainer.image "version" .Chart.AppVersion) | quote }}
  pullPolicy: {{ .Values.trainer.image.pullPolicy }}
  pullSecrets: {{ toJson .Values.trainer.image.pullSecrets }}
pods:
  environment: {{ toJson .Values.trainer.environment }}
  sharedMemory: {{ .Values.trainer.sharedMemory | quote }}
  graceSeconds: {{ .Values.trainer.graceSeconds }}
  userId: {{ .Values.trainer.userId }}
  groupId: {{ .Values.trainer.groupId }}
  runtimeClassName: {{ ternary "null" (quote .Values.trainer.runtimeClassName) (eq .Values.trainer.runtimeClassName "") }}
  prepareCpu: {{ .Values.trainer.prepareCpu | quote }}
  prepareMemory: {{ .Values.trainer.prepareMemory | quote }}
limits:
  maxNodes: {{ .Values.limits.maxNodes }}
  maxGpusPerNode: {{ .Values.limits.maxGpusPerNode }}
  maxMemoryPerGpu: {{ ternary "null" (quote .Values.limits.maxMemoryPerGpu) (eq .Values.limits.maxMemoryPerGpu "") }}
  priorityClasses: {{ toJson .Values.limits.priorityClasses }}
  queues: {{ toJson .Values.limits.queues }}
  queuePriorityClasses: {{ toJson .Values.limits.queuePriorityClasses }}
  sources: {{ toJson .Values.limits.sources }}
  pushHubs: {{ toJson .Values.limits.pushHubs }}
  s3Endpoints: {{ toJson .Values.limits.s3Endpoints }}
gangs: {{ toJson .Values.gangs }}
fabrics: {{ toJson .Values.fabrics }}
namespaces: {{ toJson .Values.watchNamespaces }}
pricing:
  currency: {{ .Values.pricing.currency | quote }}
  perGpuHour: {{ toJson .Values.pricing.perGpuHour }}
{{- if gt (int .Values.replicas) 1 }}
leaderElection:
  namespace: {{ .Release.Namespace }}
  name: {{ include "qwen3-finetune.fullname" . }}
  leaseSeconds: {{ .Values.leaderElection.leaseSeconds }}
  renewSeconds: {{ .Values.leaderElection.renewSeconds }}
  retrySeconds: {{ .Values.leaderElection.retrySeconds }}
{{- else }}
leaderElection: null
{{- end }}
progressIntervalSeconds: {{ .Values.settings.progressIntervalSeconds }}
staleAfterSeconds: {{ .Values.settings.staleAfterSeconds }}
resyncSeconds: {{ .Values.settings.resyncSeconds }}
fencingGraceSeconds: {{ .Values.settings.fencingGraceSeconds }}
{{- end }}

{{- /* What the operator may do with runs and with what it makes for them. No secrets, no pods to create, no exec. */}}
{{- define "qwen3-finetune.rules" -}}
- apiGroups: [finetune.qwen3.io]
  resources: [qwen3finetunes]
  verbs: [get, list, watch, delete]
- apiGroups: [finetune.qwen3.io]
  resources: [qwen3finetunes/status]
  verbs: [patch]
- apiGroups: [finetune.qwen3.io]
  resources: [qwen3finetunes/finalizers]
  verbs: [update]  # some clusters ask for it of whoever sets blockOwnerDeletion
- apiGroups: [batch]
  resources: [jobs]
  verbs: [get, list, watch, create, delete]
- apiGroups: [""]
  resources: [services, configmaps]
  verbs: [get, list, watch, create, patch]
- apiGroups: [""]
  resources: [persistentvolumeclaims]
  verbs: [get, list, watch, create]
- apiGroups: [""]
  resources: [pods]
  verbs: [get, list, watch, delete]
- apiGroups: [""]
  resources: [events]
  verbs: [get, list, create, patch]
{{- if .Values.gangs.kueue.enabled }}
- apiGroups: [kueue.x-k8s.io]
  resources: [workloads]
  verbs: [list]  # why a run waits, and why its place was taken back
- apiGroups: [visibility.kueue.x-k8s.io]
  resources: [localqueues/pendingworkloads]
  verbs: [get]  # its position
{{- end }}
{{- if .Values.gangs.volcano.enabled }}
- apiGroups: [scheduling.volcano.sh]
  resources: [podgroups]
  verbs: [get, create]
{{- end }}
{{- if .Values.gangs.coscheduling.enabled }}
- apiGroups: [scheduling.x-k8s.io]
  resources: [podgroups]
  verbs: [get, create]
{{- end }}
{{- end }}

{{- /* Nodes are no namespace's, so only a cluster-wide operator may be let read them. */}}
{{- define "qwen3-finetune.nodeRules" -}}
- apiGroups: [""]
  resources: [nodes]
  verbs: [list]
{{- end }}
