"""The mathematics of diffusion: torch only, no names, no networks.

t = 0 is clean, t = 1 is noise; x_t = alpha(t) x0 + sigma(t) noise.
"""
