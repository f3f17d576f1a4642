"""The driver for Skupper on Podman, Docker or plain Linux: files that Skupper reads, and its CLI."""
