"""What can be searched: network spaces and accelerator spaces."""
