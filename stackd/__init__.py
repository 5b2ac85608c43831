"""stackd turns sets of telescope captures into clean pictures, unattended.

Importing it does nothing: no folder is made, no log sink opened, no TensorFlow loaded.
"""
