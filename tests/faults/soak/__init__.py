"""A soak: millions of operations over all pools at once, a fault a second, and what of it all stays in the process."""
