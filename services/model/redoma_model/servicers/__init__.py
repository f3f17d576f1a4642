"""Where protobuf comes in and goes out."""
