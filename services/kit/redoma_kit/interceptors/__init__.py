"""What happens around every call, for all four kinds of RPC, in the order server.py lists."""
