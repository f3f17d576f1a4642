"""Proto in and out."""
