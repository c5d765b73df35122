"""HttpPool and what it is made of."""
