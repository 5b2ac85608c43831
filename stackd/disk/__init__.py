"""F3: all that touches the file system. Receives paths; knows no settings and no jobs."""
