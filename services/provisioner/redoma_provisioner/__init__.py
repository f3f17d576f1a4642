"""The provisioner: the network of sites, the certificates of its members, and what the Envoys are served."""
