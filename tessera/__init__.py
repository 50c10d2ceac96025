"""Make, adapt, merge, measure and run modern multilingual text encoders."""

__version__ = "0.1.0"
