"""Signing in with tokens of OpenID Connect providers: discovery, their keys, their claims, and users made of them."""
