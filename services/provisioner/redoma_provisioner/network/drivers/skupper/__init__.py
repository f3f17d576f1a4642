"""What both Skupper drivers share: Skupper's resources as plain values, and its conditions in our words."""
