"""F4: what is to be done, in which order, and who does it."""
