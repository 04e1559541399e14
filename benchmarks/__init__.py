"""Side-by-side runs of this package and other libraries: `python -m benchmarks` lists them, `python -m benchmarks step` runs one."""
