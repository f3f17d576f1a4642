"""What a tenant has checked before a prompt reaches the model and before an answer leaves."""
