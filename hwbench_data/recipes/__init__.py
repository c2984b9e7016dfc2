"""How the shipped tables are built, one file each: ``build(limit, seed, ...) -> (card, blocks, labels)``."""
