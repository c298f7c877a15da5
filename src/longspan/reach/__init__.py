"""How far information travels: by a rule, and exactly, by gradient."""
