"""The tenant service's tables, and the only SQL it has."""
