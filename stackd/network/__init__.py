"""F2: the network and its training. TensorFlow lives here; paths, settings and disk do not."""
