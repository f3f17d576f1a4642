"""Who belongs to the network: the authority, join tokens, certificates, and the trust bundle."""
