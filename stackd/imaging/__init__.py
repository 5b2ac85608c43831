"""F1: the science on plain arrays. No paths, no clock, no logging, no settings, no TensorFlow."""
