// The cluster's DNS for scripts/e2e: CoreDNS with the few plugins that answer for Services. All plugins of CoreDNS depend on the
// clients of every cloud and take minutes to build.
package main

import (
	"github.com/coredns/coredns/coremain"
	_ "github.com/coredns/coredns/plugin/bind"
	_ "github.com/coredns/coredns/plugin/errors"
	_ "github.com/coredns/coredns/plugin/kubernetes"
	_ "github.com/coredns/coredns/plugin/ready"
)

func main() { coremain.Run() }
