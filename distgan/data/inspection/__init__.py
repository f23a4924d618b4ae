"""Commands that look at data sets: index them, verify them, tell what they hold."""
