"""Planning: what both ends look like, and what will be done. Nothing is changed."""
