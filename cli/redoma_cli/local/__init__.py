"""A whole site on one machine: its home directory, its certificates, its processes and who keeps them running."""
