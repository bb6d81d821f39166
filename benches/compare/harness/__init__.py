"""What runs the comparison. Standard library only."""
