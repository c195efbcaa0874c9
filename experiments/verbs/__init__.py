"""Verbs that compose several rooms, one file each: the config the command line reads, and the function behind it."""
