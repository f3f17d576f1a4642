"""The network: sites, and how one driver or another makes what is wanted of it true."""
