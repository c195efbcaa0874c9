"""Playing: policies and episodes planned beforehand, simulation processes, one row per episode, films of some."""
