"""Many runs in one process: reconstructions, textures, sweeps, and their comparison."""
