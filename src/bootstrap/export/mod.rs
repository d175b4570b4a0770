//! Files that distributions of Kubernetes read from the disks of nodes.
