"""Demonstrations that anyone can run: what stock tools let pass and Pedigree does not."""
