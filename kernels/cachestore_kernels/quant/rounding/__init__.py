"""What becomes of single values, for the kernels of quantisation."""
