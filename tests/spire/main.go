// SPDX-License-Identifier: Apache-2.0

// SPIRE's server and its agent in one program, chosen by the name of the link that it is called by: they share most of
// their packages.
package main

import (
	"fmt"
	"os"
	"path/filepath"

	agent "github.com/spiffe/spire/cmd/spire-agent/cli"
	server "github.com/spiffe/spire/cmd/spire-server/cli"
	"github.com/spiffe/spire/pkg/common/entrypoint"
)

func main() {
	switch name := filepath.Base(os.Args[0]); name {
	case "spire-server":
		os.Exit(entrypoint.NewEntryPoint(new(server.CLI).Run).Main())
	case "spire-agent":
		os.Exit(entrypoint.NewEntryPoint(new(agent.CLI).Run).Main())
	default:
		fmt.Fprintf(os.Stderr, "%s: no program of this name in here\n", name)
		os.Exit(2)
	}
}
