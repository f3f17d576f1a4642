"""What each Envoy is served, made from settings and the facts of the network, as plain values of Envoy's v3 API."""
