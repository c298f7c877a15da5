"""From a command line to the typed configuration of a run, or of every cell of a sweep."""
