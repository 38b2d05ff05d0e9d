"""What both ends look like, and what will be done; nothing is changed."""
