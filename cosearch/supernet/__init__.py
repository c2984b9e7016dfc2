"""Weight sharing: the blocks networks are made of, the elastic supernet, and the training of both."""
