"""The driver for Skupper on Kubernetes and OpenShift: Skupper's kinds, through the cluster's API server."""
