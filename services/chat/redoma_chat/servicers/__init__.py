"""Protocol buffers in and out; nothing behind this folder sees them, save the channels to other services."""
