"""What crosses the wire: protobuf in and out, and nothing else."""
