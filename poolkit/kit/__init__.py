"""PoolKit: all pools of a program in one object, sized, watched and closed together."""
