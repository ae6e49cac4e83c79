"""The commands of `pedigree`, a module for each part; heavy modules are imported in each."""
