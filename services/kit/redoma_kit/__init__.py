"""The runtime every Redoma service shares."""
