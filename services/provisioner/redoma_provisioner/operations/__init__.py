"""Work that goes on after the call that asked for it."""
