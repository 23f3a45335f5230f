//go:build tools

// Package tools pins Kubeflow Trainer and JobSet, which the operator is measured against.
package tools

import (
	_ "github.com/kubeflow/trainer/v2/cmd/trainer-controller-manager"
	_ "sigs.k8s.io/jobset"
)
