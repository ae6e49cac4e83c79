"""Training and evaluation: a plain torch loop in a process of its own."""
