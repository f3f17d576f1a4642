"""The network that needs nothing but Envoy: reverse tunnels from the gateways of private sites to the egress."""
