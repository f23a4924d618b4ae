"""How fast a run would be on more ranks than there are here, from figures measured on few: a model of pure functions."""
