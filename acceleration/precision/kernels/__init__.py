"""Triton kernels, each beside the plain torch twin that answers where Triton can't and that tests compare it with."""
