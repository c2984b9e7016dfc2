"""How the shipped tables are built, one file each: ``build(request) -> Built``."""
