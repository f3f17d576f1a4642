"""The tenant service: who may use Redoma, and the signed identity that says so."""
