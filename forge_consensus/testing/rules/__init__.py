"""What must always hold, and who looks whether it does, after every step and at the end."""
