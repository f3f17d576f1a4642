"""The `redoma` command: runs a site on this machine, talks to the model, and administers tenants and keys."""
