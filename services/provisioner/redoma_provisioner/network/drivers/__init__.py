"""What carries a network, one module or package for each driver."""
