// Builds olareg, a registry with the referrers API. `go install` would ask the module proxy for all of its versions,
// which not every proxy supports.
module jackal.dev/scripts/olareg

go 1.26.0

tool github.com/olareg/olareg/cmd/olareg

require github.com/olareg/olareg v0.2.2

require (
	github.com/goccy/go-yaml v1.19.2 // indirect
	github.com/spf13/cobra v1.10.2 // indirect
	github.com/spf13/pflag v1.0.10 // indirect
	github.com/sudo-bmitch/oci-digest v0.1.2 // indirect
	golang.org/x/crypto v0.53.0 // indirect
)
