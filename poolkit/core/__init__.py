"""What every pool is made of. Knows no driver."""
