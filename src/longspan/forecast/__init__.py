"""`longspan cost` and `longspan reach`: what the cells of a sweep cost and connect, untrained."""
