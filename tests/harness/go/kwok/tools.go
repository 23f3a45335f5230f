//go:build tools

// Package tools pins KWOK, which plays nodes by the thousand.
package tools

import _ "sigs.k8s.io/kwok/cmd/kwok"
