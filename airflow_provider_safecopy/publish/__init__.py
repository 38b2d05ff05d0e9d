"""From staging into the target, in one transaction."""
